package etcdcluster

import (
	"encoding/binary"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
)

// Parts of a page of a bbolt file. Numbers are little-endian on the machines that we run on.
const (
	pageHeader = 16 // id, flags, count, overflow
	element    = 16

	branchPage = 0x01
	leafPage   = 0x02

	bucketElement = 0x01
	bucketHeader  = 16 // root, sequence
)

// tree walks the pages of a bbolt file. bbolt itself follows a page that leads back to itself until there is no more memory.
type tree struct {
	file     io.ReaderAt
	pageSize int
	pages    uint64
	seen     map[uint64]bool
}

// checkTree tells whether the pages that can be reached from the root of a transaction form a tree, with elements that lie within their pages.
func checkTree(tx *bbolt.Tx, file io.ReaderAt) error {
	size := tx.DB().Info().PageSize
	t := tree{file: file, pageSize: size, pages: uint64(tx.Size()) / uint64(size), seen: make(map[uint64]bool)}
	return t.walk(uint64(tx.Cursor().Bucket().Root()))
}

// walk checks a page and those below it. It ends: no page is visited twice.
func (t *tree) walk(id uint64) error {
	page, err := t.read(id)
	if err == nil {
		err = t.elements(page)
	}
	if err != nil {
		return fmt.Errorf("page %d is damaged: %w", id, err)
	}
	return nil
}

// read returns a page with those that it goes on in.
func (t *tree) read(id uint64) ([]byte, error) {
	if id < 2 || id >= t.pages {
		return nil, fmt.Errorf("the file has pages 2 to %d", t.pages-1)
	}
	at := int64(id) * int64(t.pageSize)
	header := make([]byte, pageHeader)
	if _, err := t.file.ReadAt(header, at); err != nil {
		return nil, err
	}
	if got := binary.LittleEndian.Uint64(header); got != id {
		return nil, fmt.Errorf("it says that it is page %d", got)
	}
	overflow := uint64(binary.LittleEndian.Uint32(header[12:]))
	if overflow >= t.pages-id {
		return nil, fmt.Errorf("it goes on for %d pages, beyond the end of the file", overflow)
	}
	for p := id; p <= id+overflow; p++ {
		if t.seen[p] {
			return nil, fmt.Errorf("page %d is part of another one, or was come by before", p)
		}
		t.seen[p] = true
	}
	page := make([]byte, (1+int(overflow))*t.pageSize)
	_, err := t.file.ReadAt(page, at)
	return page, err
}

// elements checks what is in a page, and the pages below.
func (t *tree) elements(page []byte) error {
	flags, count := binary.LittleEndian.Uint16(page[8:]), int(binary.LittleEndian.Uint16(page[10:]))
	if flags != branchPage && flags != leafPage {
		return fmt.Errorf("it is of kind %#x", flags)
	}
	if pageHeader+count*element > len(page) {
		return fmt.Errorf("it has %d elements", count)
	}
	for i := range count {
		at := uint64(pageHeader + i*element)
		e := page[at:][:element]
		number := func(i int) uint64 { return uint64(binary.LittleEndian.Uint32(e[4*i:])) }
		if flags == branchPage { // place and size of the key, page
			if at+number(0)+number(1) > uint64(len(page)) {
				return fmt.Errorf("element %d ends beyond it", i)
			}
			if err := t.walk(binary.LittleEndian.Uint64(e[8:])); err != nil {
				return err
			}
			continue
		}
		value := at + number(1) + number(2) // flags, place and size of the key, size of the value
		if value+number(3) > uint64(len(page)) {
			return fmt.Errorf("element %d ends beyond it", i)
		}
		if number(0)&bucketElement != 0 {
			if err := t.bucket(page[value:][:number(3)]); err != nil {
				return fmt.Errorf("bucket %d: %w", i, err)
			}
		}
	}
	return nil
}

// bucket checks what a bucket's element refers to, or holds itself if it is small. bbolt would look for any page below such a one in the element, again and again.
func (t *tree) bucket(value []byte) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("it has %d bytes", len(value))
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return t.walk(root)
	}
	page := value[bucketHeader:]
	if len(page) < pageHeader || binary.LittleEndian.Uint16(page[8:]) != leafPage {
		return fmt.Errorf("no page lies in its %d bytes", len(value))
	}
	return t.elements(page)
}
