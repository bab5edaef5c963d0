package pebbleengine

import (
	"errors"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// asideDir holds what Pebble would have deleted after a loss.
const asideDir = "lost"

// cleaner deletes the files that Pebble needs no more, but not those that were there before it is known whether Pebble knows all that it should: to a
// manifest that lost its end, the newest tables are refuse. After a loss they are moved aside, for whoever wants to repair the store, and nothing else.
type cleaner struct {
	fs     vfs.FS
	dir    string
	logger *slog.Logger
	mu     struct {
		sync.Mutex
		before  uint64 // files with a number up to this were there when the store was opened
		decided bool
		loss    bool
		held    []string
	}
}

// newCleaner looks which files are there.
func newCleaner(fsys vfs.FS, dir string, logger *slog.Logger) (*cleaner, error) {
	c := &cleaner{fs: fsys, dir: dir, logger: logger}
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		c.mu.before = max(c.mu.before, fileNumber(name))
	}
	return c, nil
}

// fileNumber is the number in the name of a file of Pebble, 0 if it has none.
func fileNumber(name string) uint64 {
	if _, rest, ok := strings.Cut(name, "-"); ok { // MANIFEST-000001, OPTIONS-000002
		name = rest
	}
	name, _, _ = strings.Cut(name, ".")
	n, err := strconv.ParseUint(name, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// remove is what becomes of a file that Pebble removes.
func (c *cleaner) remove(path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	number := fileNumber(c.fs.PathBase(path))
	switch {
	case number == 0 || number > c.mu.before || c.mu.decided && !c.mu.loss:
		return c.fs.Remove(path)
	case !c.mu.decided:
		c.mu.held = append(c.mu.held, path)
		return nil
	}
	return c.moveAside(path)
}

// decide is called once the store has been compared with its high-water mark.
func (c *cleaner) decide(loss bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.decided, c.mu.loss = true, loss
	for _, path := range c.mu.held {
		var err error
		if loss {
			err = c.moveAside(path)
		} else if err = c.fs.Remove(path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			c.logger.Error("a file of the store that is not needed stays", "file", path, "error", err)
		}
	}
	c.mu.held = nil
}

func (c *cleaner) moveAside(path string) error {
	aside := c.fs.PathJoin(c.dir, asideDir)
	if err := c.fs.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	to := c.fs.PathJoin(aside, c.fs.PathBase(path))
	c.logger.Warn("a file that the store does not know any more was moved aside", "file", path, "to", to)
	return c.fs.Rename(path, to)
}
