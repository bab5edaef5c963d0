package main

import (
	"errors"
	"slices"
	"testing"
)

func pristine() *stock {
	return &stock{
		words:     []stored{{0, 0, 1, "k", true}, {0, 1, 2, "k", true}, {1, 0, 3, "l", true}},
		tasks:     []stored{{0, 7, 4, "", true}},
		dead:      []deadLetter{{group: "reader", topic: words, partition: 1, offset: 0, uid: 3, reason: "permanent", attempts: 1, good: true}},
		positions: []standing{{"reader", words, 0, 1, 2, 1, 0, ""}, {"reader", words, 1, 1, 1, 0, 1, ""}},
		bounds:    map[string]string{"words/0": "0 to 2", "words/1": "0 to 1", "tasks/0": "7 to 8"},
		scheduled: []string{"a", "b"},
	}
}

func TestWhatIsMissingMustBeTold(t *testing.T) {
	const old = "level=ERROR msg=\"acknowledged commits are missing from the store: …\""
	for name, c := range map[string]struct {
		change func(*stock)
		log    string
		differ int
		unsaid int
	}{
		"the same":                       {func(*stock) {}, "", 0, 0},
		"a message is gone":              {func(s *stock) { s.words = s.words[1:] }, "", 1, 1},
		"and the partition says so":      {func(s *stock) { s.words = s.words[1:]; s.faults = []string{"words/0: data loss"} }, "", 1, 0},
		"another partition says so":      {func(s *stock) { s.words = s.words[1:]; s.faults = []string{"words/1: data loss"} }, "", 1, 1},
		"the topic cannot be read":       {func(s *stock) { s.words = s.words[:1]; s.wordsFault = errors.New("data loss") }, "", 2, 0},
		"it is another message":          {func(s *stock) { s.words[0].uid = 9; s.wordsFault = errors.New("data loss") }, "", 1, 1},
		"its content is another":         {func(s *stock) { s.words[0].good = false }, "", 1, 1},
		"a message is there too many":    {func(s *stock) { s.tasks = append(s.tasks, stored{1, 1, 9, "", true}) }, "", 1, 1},
		"a position went back":           {func(s *stock) { s.positions[0].position = 0 }, "", 1, 1},
		"and the log says that it may":   {func(s *stock) { s.positions[0].position = 0 }, old, 1, 0},
		"a log is short, the log says":   {func(s *stock) { s.bounds["words/0"] = "0 to 1" }, old, 1, 1},
		"a dead letter is gone":          {func(s *stock) { s.dead = nil }, "", 1, 1},
		"and the group says so":          {func(s *stock) { s.dead = nil; s.faults = []string{"reader of words/1: data loss"} }, "", 1, 0},
		"a dead letter is another":       {func(s *stock) { s.dead[0].attempts = 2 }, "", 2, 2},
		"a group is gone":                {func(s *stock) { s.positions = s.positions[:1] }, "", 1, 1},
		"a scheduled message is gone":    {func(s *stock) { s.scheduled = s.scheduled[:1] }, "", 1, 1},
		"and the schedule says so":       {func(s *stock) { s.scheduled = s.scheduled[:1]; s.faults = []string{"schedule: data loss"} }, "", 1, 0},
		"one is scheduled that was not":  {func(s *stock) { s.scheduled = append(slices.Clone(s.scheduled), "c") }, "", 1, 1},
		"a topic's bounds are not shown": {func(s *stock) { delete(s.bounds, "tasks/0") }, "", 1, 1},
	} {
		now := pristine()
		c.change(now)
		differ := pristine().compare(now)
		if len(differ) != c.differ {
			t.Errorf("%s: %q", name, differ)
		}
		if unsaid := now.unsaid(differ, c.log); len(unsaid) != c.unsaid {
			t.Errorf("%s: not told: %q", name, unsaid)
		}
	}
}

func TestKindsOfFiles(t *testing.T) {
	for path, want := range map[string]string{
		"store/000004.log": "store: write-ahead log", "store/000005.sst": "store: tables", "store/MANIFEST-000001": "store: MANIFEST",
		"store/OPTIONS-000003": "store: OPTIONS", "store/MARKS": "store: MARKS", "store/FORMAT": "store: markers, FORMAT, LOCK",
		"store/marker.manifest.000001.MANIFEST-000001":               "store: markers, FORMAT, LOCK",
		"etcd/etcd/member/wal/0000000000000000-0000000000000000.wal": "etcd: write-ahead log", "etcd/etcd/member/wal/0.tmp": "etcd: others",
		"etcd/etcd/member/snap/db": "etcd: bbolt", "etcd/etcd/member/snap/0000000000000002-00000000000007d1.snap": "etcd: snapshots",
	} {
		if got := kind(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}
