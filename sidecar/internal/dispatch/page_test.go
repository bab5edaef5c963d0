package dispatch

import "testing"

// TestSettledPagesAreLetGo: of pages that are settled, no more is kept than those that were freed lately, whatever there was at a time.
func TestSettledPagesAreLetGo(t *testing.T) {
	ps := newPages(0, packAbove)
	for o := Offset(0); o < 300*BlockSize; o += BlockSize {
		ps.extend(o)
	}
	for o := Offset(0); o <= 300*BlockSize; o += BlockSize {
		ps.dropBelow(o, nil)
	}
	kept := make(map[*page]bool)
	for _, s := range ps.slots[:cap(ps.slots)] {
		if s.page != nil {
			kept[s.page] = true
		}
	}
	if len(kept) > 0 || ps.used != 0 {
		t.Errorf("%d pages are still referred to by %d slots, %d are in use", len(kept), len(ps.slots), ps.used)
	}
}
