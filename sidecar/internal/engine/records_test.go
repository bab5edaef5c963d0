package engine

import (
	"bytes"
	"fmt"
	"testing"
)

func TestCutKeepsEveryRecordWithinTheBounds(t *testing.T) {
	for _, tc := range []struct{ count, size, wantRuns int }{
		{1, 0, 1},
		{1, 3 * MaxChunkBytes, 1},
		{3, 3 * MaxChunkBytes, 3},
		{MaxChunkRecords, 10, 1},
		{MaxChunkRecords + 1, 10, 2},
		{1000, 1024, 4},
	} {
		t.Run(fmt.Sprintf("%dx%d", tc.count, tc.size), func(t *testing.T) {
			var set []byte
			for range tc.count {
				set = AppendRecord(set, make([]byte, tc.size))
			}
			runs, err := Cut(Append{Records: set, Count: tc.count})
			if err != nil {
				t.Fatal(err)
			}
			var joined []byte
			count := 0
			for _, run := range runs {
				if run.Count > MaxChunkRecords || run.Count > 1 && len(run.Records) > MaxChunkBytes {
					t.Errorf("run of %d records and %d bytes exceeds the bounds", run.Count, len(run.Records))
				}
				seen := 0
				for range (Chunk{Records: run.Records}).All() {
					seen++
				}
				if seen != run.Count {
					t.Errorf("run says %d records and holds %d", run.Count, seen)
				}
				joined = append(joined, run.Records...)
				count += run.Count
			}
			if len(runs) != tc.wantRuns || count != tc.count || !bytes.Equal(joined, set) {
				t.Errorf("%d runs of %d records in total, want %d of %d, bytes equal: %t",
					len(runs), count, tc.wantRuns, tc.count, bytes.Equal(joined, set))
			}
		})
	}
}

func TestCutRefusesWhatIsNotARecordSet(t *testing.T) {
	one := AppendRecord(nil, []byte("a"))
	for name, a := range map[string]Append{
		"count 0":         {Records: nil, Count: 0},
		"count negative":  {Records: one, Count: -1},
		"count too small": {Records: AppendRecord(bytes.Clone(one), []byte("b")), Count: 1},
		"count too large": {Records: one, Count: 2},
		"cut short":       {Records: one[:len(one)-1], Count: 1},
		"other field":     {Records: []byte{0x12, 1, 'a'}, Count: 1},
		"length overflow": {Records: []byte{recordTag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, Count: 1},
		"only a tag":      {Records: []byte{recordTag}, Count: 1},
	} {
		if _, err := Cut(a); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAllGivesOffsetsAndRecords(t *testing.T) {
	set := AppendRecord(AppendRecord(nil, []byte("a")), nil)
	var got []string
	for offset, record := range (Chunk{First: 7, Count: 2, Records: set}).All() {
		got = append(got, fmt.Sprintf("%d=%q", offset, record))
	}
	if want := `[7="a" 8=""]`; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
