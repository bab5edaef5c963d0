package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// treeOf is every file under a directory with its size and, but for locks, its time of change.
func treeOf(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		when := info.ModTime()
		if d.Name() == "LOCK" {
			when = time.Time{}
		}
		fmt.Fprintln(&all, path, info.Size(), when)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestBackupAndRestore: what is restored is what was there at the instant of the backup, under owners of its own.
func TestBackupAndRestore(t *testing.T) {
	data := t.TempDir()
	s := startServe(t, "--data-dir", data, "--socket", "none")
	c := &cli{addr: "http://" + s.Addr}
	sidecar, err := c.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer sidecar.close()
	declareOrders(t, sidecar)
	run := func(args ...string) result {
		return mq(t, strings.NewReader(""), []string{"MQ_ADDR=" + c.addr}, args...)
	}
	ok := func(args ...string) string {
		t.Helper()
		got := run(args...)
		if got.status != 0 {
			t.Fatalf("mq %s: %+v", strings.Join(args, " "), got)
		}
		return got.out
	}
	for i := range 30 {
		ok("publish", "orders", fmt.Sprintf(`{"customer":"c%d","cents":%d}`, i%7, i))
	}
	ok("publish", "orders", "--delay", "1h", "--id", "reminder", `{"customer":"c1"}`)
	bury(t, sidecar)
	bury(t, sidecar)
	held, err := sidecar.broker.Pull(t.Context(), connect.NewRequest(&brokerv1.PullRequest{Group: "billing", Topic: "orders", MaxMessages: 3, Wait: durationpb.New(10 * time.Second)}))
	if err != nil || len(held.Msg.GetMessages()) == 0 {
		t.Fatal(held, err)
	}
	settle := func(messages []*brokerv1.PulledMessage) []*brokerv1.SettleRefusal {
		var all []*brokerv1.Settlement
		for _, m := range messages {
			all = append(all, &brokerv1.Settlement{Token: m.GetToken(), Outcome: &brokerv1.Settlement_Ack_{Ack: &brokerv1.Settlement_Ack{}}})
		}
		answer, err := sidecar.broker.Settle(t.Context(), connect.NewRequest(&brokerv1.SettleRequest{Group: "billing", Topic: "orders", Settlements: all}))
		if err != nil {
			t.Fatal(err)
		}
		return answer.Msg.GetRefusals()
	}
	// seen is what is stored, as the commands show it, without what is only in memory.
	seen := func() string {
		t.Helper()
		var groups struct {
			Groups []struct {
				Partitions []struct{ Position, End, DeadLetters string }
			}
		}
		if err := json.Unmarshal([]byte(ok("groups", "billing", "-o", "json")), &groups); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(groups) + ok("topics") + ok("tail", "orders", "--from", "earliest", "--stop-at-end") + ok("dlq", "list", "billing", "orders") +
			ok("scheduled", "list", "orders") + ok("topic", "describe", "orders")
	}

	at := seen()
	dest := filepath.Join(t.TempDir(), "backup")
	if out := ok("backup", dest); !regexp.MustCompile(`: commit \d+, \d+ files, \d+ bytes\n$`).MatchString(out) {
		t.Errorf("mq backup says %q", out)
	}
	if _, err := os.Stat(filepath.Join(data, "store.snapshot")); err == nil {
		t.Error("the sidecar's own copy is left behind")
	}
	if got := run("backup", dest); got.status != 3 || !strings.Contains(got.err, "is not empty") {
		t.Errorf("a second backup into the directory: %+v", got)
	}
	if got := run("check", data); got.status != 3 || !strings.Contains(got.err, "open in another process; stop the sidecar") {
		t.Errorf("a check of a directory in use: %+v", got)
	}
	for i := range 10 { // which are not in the backup
		ok("publish", "orders", fmt.Sprintf(`{"customer":"later%d"}`, i))
	}
	ok("dlq", "discard", "billing", "orders", "--all", "--yes")
	ok("scheduled", "cancel", "orders", "reminder")
	if refused := settle(held.Msg.GetMessages()[:1]); len(refused) > 0 {
		t.Errorf("the original refuses its own token: %v", refused)
	}
	s.stop()
	if status := <-s.done; status != 0 {
		t.Fatalf("exit status %d", status)
	}

	before := treeOf(t, data)
	if got := run("check", data); got.status != 0 || !regexp.MustCompile(`^sound: \d+ logs, 40 records of \d+ bytes, \d+ shards, commit \d+, \d+\.\d s\n$`).MatchString(got.out) {
		t.Errorf("the check of the original: %+v", got)
	}
	if treeOf(t, data) != before {
		t.Error("the check touched the data directory")
	}

	restored := filepath.Join(t.TempDir(), "restored")
	if got := run("restore", dest, restored); got.status != 0 || !strings.HasPrefix(got.out, "sound: ") || !strings.HasPrefix(got.err, "mq: restored commit ") {
		t.Fatalf("mq restore: %+v", got)
	}
	if got := run("restore", dest, restored); got.status != 3 || !strings.Contains(got.err, "data directory cannot be used: "+restored+" is not empty") {
		t.Errorf("a second restore into the directory: %+v", got)
	}
	again := startServe(t, "--data-dir", restored, "--socket", "none")
	c.addr = "http://" + again.Addr
	if sidecar, err = c.dial(); err != nil {
		t.Fatal(err)
	}
	defer sidecar.close()
	if now := seen(); now != at {
		t.Errorf("restored:\n%s\nwas at the instant of the backup:\n%s", now, at)
	}
	refused := settle(held.Msg.GetMessages())
	if len(refused) != len(held.Msg.GetMessages()) {
		t.Errorf("%d tokens of the original, %d refused", len(held.Msg.GetMessages()), len(refused))
	}
	for _, r := range refused {
		if reason := r.GetRefusal().GetInfo().GetReason(); reason != "BAD_TOKEN" {
			t.Errorf("a token of the original is refused with %s", reason)
		}
	}
	next, err := sidecar.broker.Pull(t.Context(), connect.NewRequest(&brokerv1.PullRequest{Group: "billing", Topic: "orders", MaxMessages: 100, Wait: durationpb.New(10 * time.Second)}))
	if err != nil || len(settle(next.Msg.GetMessages())) > 0 || len(next.Msg.GetMessages()) < len(held.Msg.GetMessages()) {
		t.Errorf("what was held is not delivered again: %v, %v", next, err)
	}
	again.stop()
	<-again.done
	if got := run("check", restored, "--json"); got.status != 0 || !strings.HasPrefix(got.out, "{\n  \"sound\": true,\n  \"findings\": [],\n  \"logs\": ") {
		t.Errorf("the check of what was restored and used: %+v", got)
	}

	// A bit flips in a file of messages.
	tables, err := filepath.Glob(filepath.Join(restored, "store", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	flip(t, tables[0])
	if got := run("check", restored); got.status != 1 || !strings.Contains(got.out, filepath.Base(tables[0])+": ") || !regexp.MustCompile(`\d+ findings?: `).MatchString(got.out) {
		t.Errorf("the check of a damaged store: %+v", got)
	}
	if got := run("check", restored, "--json"); got.status != 1 || !strings.Contains(got.out, `"sound": false`) || !strings.Contains(got.out, `"place": "`+filepath.Base(tables[0])+`"`) {
		t.Errorf("the check of a damaged store: %+v", got)
	}
}

// flip turns a bit in the middle of a file.
func flip(t *testing.T, name string) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/3] ^= 1
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRestoreRefusesWhatIsNoBackup(t *testing.T) {
	s := startServe(t, "--data-dir", t.TempDir(), "--socket", "none")
	c := "http://" + s.Addr
	run := func(args ...string) result { return mq(t, nil, []string{"MQ_ADDR=" + c}, args...) }
	for name, tc := range map[string]struct {
		harm func(dir string)
		want string
	}{
		"no manifest":      {func(dir string) { _ = os.Remove(filepath.Join(dir, "backup.json")) }, "it is no backup, or one that was interrupted"},
		"manifest garbage": {func(dir string) { _ = os.WriteFile(filepath.Join(dir, "backup.json"), []byte("{"), 0o600) }, "backup.json is damaged"},
		"manifest newer": {func(dir string) {
			_ = os.WriteFile(filepath.Join(dir, "backup.json"), []byte(`{"typedmqBackup":99}`), 0o600)
		}, "a newer version made it"},
		"file missing": {func(dir string) { _ = os.Remove(filepath.Join(dir, "store", "MARKS")) }, "no such file"},
		"file flipped": {func(dir string) { flip(t, filepath.Join(dir, "store", "MARKS")) }, "store/MARKS is not the file that was backed up"},
		"file cut":     {func(dir string) { _ = os.Truncate(filepath.Join(dir, "store", "MARKS"), 8) }, "store/MARKS is not the file that was backed up (8 bytes of"},
		"file more":    {func(dir string) { _ = os.WriteFile(filepath.Join(dir, "store", "x.log"), nil, 0o600) }, "a file x.log that its manifest does not list"},
		"a path":       {func(dir string) { replaceIn(t, filepath.Join(dir, "backup.json"), "store/MARKS", "store/../M") }, "which no backup has"},
	} {
		t.Run(name, func(t *testing.T) {
			dest, to := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "restored")
			if got := run("backup", dest); got.status != 0 {
				t.Fatalf("%+v", got)
			}
			tc.harm(dest)
			if got := run("restore", dest, to); got.status != 3 || !strings.Contains(got.err, tc.want) {
				t.Errorf("%+v, want %q", got, tc.want)
			}
			if _, err := os.Stat(to); !os.IsNotExist(err) {
				t.Errorf("something was left in the directory: %v", err)
			}
		})
	}
	to := t.TempDir()
	if err := os.Mkdir(filepath.Join(to, "store.restoring"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := run("serve", "--data-dir", to, "--listen", "127.0.0.1:0", "--socket", "none"); got.status != 3 || !strings.Contains(got.err, "did not end") {
		t.Errorf("a sidecar on a directory whose restore did not end: %+v", got)
	}
	if got := run("check", t.TempDir()); got.status != 3 || !strings.Contains(got.err, "has no directory store") {
		t.Errorf("a check of an empty directory: %+v", got)
	}
	if got := run("check"); got.status != 2 {
		t.Errorf("a check of nothing: %+v", got)
	}
	s.stop()
	<-s.done
	if got := run("backup", filepath.Join(to, "b")); got.status != 1 || !strings.Contains(got.err, "no sidecar answers") {
		t.Errorf("a backup without a sidecar: %+v", got)
	}
	if _, err := os.Stat(filepath.Join(to, "b")); !os.IsNotExist(err) {
		t.Errorf("a backup that failed left something: %v", err)
	}
}

func replaceIn(t *testing.T, name, old, by string) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(content), old) {
		t.Fatal(err, string(content))
	}
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(string(content), old, by)), 0o600); err != nil {
		t.Fatal(err)
	}
}
