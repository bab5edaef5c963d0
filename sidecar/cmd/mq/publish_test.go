package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

const receiptHeader = "ID          PARTITION  OFFSET      DUPLICATE\n"

func receipts(partition uint32, from, n int64) *brokerv1.PublishResponse {
	out := &brokerv1.PublishResponse{}
	for i := range n {
		out.Receipts = append(out.Receipts, &brokerv1.Receipt{Id: fmt.Sprintf("%d-%d", partition, from+i), Partition: partition, Offset: from + i})
	}
	return out
}

func message(fields map[string]any) *brokerv1.Message {
	body, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err)
	}
	return &brokerv1.Message{Body: &brokerv1.Message_Json{Json: body}}
}

func TestPublishArguments(t *testing.T) {
	answer := receipts(3, 7, 2)
	answer.Receipts[1].Duplicate = true
	f := newFake(t, answer)
	f.mq(t, "", "publish", "t", "--header", "a=1=2", "--header", "b=", "--key", "", `{"origin":"SFO"}`, ` {"n":1.5, "l":[9007199254740993, 1e3]} `).want(t, 0,
		receiptHeader+"3-7         3          7           no\n3-8         3          8           yes\n", "")
	want := &brokerv1.PublishRequest{Topic: "t", Messages: []*brokerv1.Message{
		message(map[string]any{"origin": "SFO"}), message(map[string]any{"n": 1.5, "l": []any{"9007199254740993", 1000}}),
	}}
	for _, m := range want.Messages {
		m.Key, m.Headers = []byte{}, map[string]string{"a": "1=2", "b": ""}
	}
	f.mustAsk(t, want)
}

func TestPublishOneWithID(t *testing.T) {
	for _, args := range [][]string{{"publish", "t", "--id", "x", "-o", "json", `{}`}, {"publish", "t", "--id", "x", "-o", "json"}} {
		f := newFake(t, receipts(0, 0, 1))
		f.mq(t, "{}", args...).want(t, 0, `{"receipts":[{"id":"0-0","partition":0,"offset":"0","duplicate":false,"scheduled":false}]}`+"\n", "")
		m := message(nil)
		m.Id = "x"
		f.mustAsk(t, &brokerv1.PublishRequest{Topic: "t", Messages: []*brokerv1.Message{m}})
	}
	f := newFake(t)
	f.mq(t, "{}{}", "publish", "t", "--id", "x", "-").want(t, 2, "",
		"mq: --id needs exactly one message: an id tells one message from another\nhint: mq publish --help shows how it is used\n")
	f.mustAsk(t)
}

func TestPublishStandardInput(t *testing.T) {
	f := newFake(t, receipts(0, 0, 1), receipts(0, 1, 1))
	in, feed := io.Pipe()
	done := make(chan result)
	go func() { done <- mq(t, in, []string{"MQ_ADDR=" + f.addr}, "publish", "t", "-") }()
	_, _ = io.WriteString(feed, "{\"a\":1}\n{\"a\"")
	<-f.calls // the first message does not wait for the second
	_, _ = io.WriteString(feed, ":2}")
	_ = feed.Close()
	(<-done).want(t, 0, receiptHeader+"0-0         0          0           no\n0-1         0          1           no\n", "")
	f.mustAsk(t, &brokerv1.PublishRequest{Topic: "t", Messages: []*brokerv1.Message{message(map[string]any{"a": 1})}},
		&brokerv1.PublishRequest{Topic: "t", Messages: []*brokerv1.Message{message(map[string]any{"a": 2})}})
}

func TestPublishNothing(t *testing.T) {
	f := newFake(t)
	f.mq(t, " \n", "publish", "t").want(t, 0, "", "")
	f.mustAsk(t)
}

func TestPublishRefusesBadInput(t *testing.T) {
	for _, tt := range []struct {
		name, stdin string
		args        []string
		status      int
		want        string
	}{
		{"not JSON", "", []string{"{}", "{origin}"}, 2, "mq: message 2: not JSON: invalid character 'o' looking for beginning of object key string\n"},
		{"not an object", "", []string{"[1]"}, 2, "mq: message 1: must be a JSON object\n"},
		{"two objects in an argument", "", []string{"{}{}"}, 2, "mq: message 1: something follows the JSON object\n"},
		{"an empty argument", "", []string{""}, 2, "mq: message 1: is empty, want a JSON object\n"},
		{"a key twice", "", []string{`{"a":1,"a":2}`}, 2, "mq: message 1: not a JSON object of protobuf: "},
		{"a number too large", "", []string{`{"a":1e999}`}, 2, "mq: message 1: not a JSON object of protobuf: "},
		{"cut off", `{"a":`, nil, 1, "mq: message 1: not JSON: unexpected EOF (0 published before it)\n"},
		{"header without a value", "", []string{"--header", "a", "{}"}, 2, "mq: --header \"a\": must be name=value\n"},
		{"header twice", "", []string{"--header", "a=1", "--header", "a=2", "{}"}, 2, "mq: --header \"a=2\": a is given twice\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			got := f.mq(t, tt.stdin, append([]string{"publish", "t"}, tt.args...)...)
			if got.status != tt.status || got.out != "" || !strings.HasPrefix(got.err, tt.want) {
				t.Errorf("got %+v, want %s", got, tt.want)
			}
			f.mustAsk(t)
		})
	}
}

func TestPublishSaysWhichMessageWasRefused(t *testing.T) {
	oneDraft := func() draft {
		d, _ := parseObject([]byte(`{}`))
		return draft{json: d, size: 2}
	}
	f := newFake(t, receipts(0, 0, 2), refused(connect.CodeInvalidArgument, "SCHEMA_MISMATCH", "messages[1].json", "no such field"))
	c := &cli{addr: f.addr}
	sidecar, err := c.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer sidecar.close()
	p := &publisher{sidecar: sidecar, topic: "t", print: func(*brokerv1.PublishResponse) error { return nil }}
	if err := p.send(t.Context(), []draft{oneDraft(), oneDraft()}, func(*brokerv1.Message) {}); err != nil {
		t.Fatal(err)
	}
	err = p.send(t.Context(), []draft{oneDraft(), oneDraft()}, func(*brokerv1.Message) {})
	if want := "message 4: no such field (SCHEMA_MISMATCH, messages[1].json) (2 published before this batch of 2)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestBatchesAreBounded(t *testing.T) {
	fill := func(n, size int) <-chan draft {
		drafts := make(chan draft, n+1)
		for range n {
			drafts <- draft{size: size}
		}
		drafts <- draft{err: io.EOF}
		return drafts
	}
	drafts := fill(2500, 1)
	for _, want := range []int{1000, 1000, 500} {
		if batch, err := nextBatch(t.Context(), drafts); len(batch) != want || (err != nil) != (want == 500) {
			t.Errorf("batch of %d, %v, want %d", len(batch), err, want)
		}
	}
	if batch, _ := nextBatch(t.Context(), fill(5, 1<<20)); len(batch) != 2 {
		t.Errorf("batch of %d large messages, want 2", len(batch))
	}
	interrupted, interrupt := context.WithCancel(t.Context())
	interrupt()
	if batch, err := nextBatch(interrupted, make(chan draft)); len(batch) != 0 || err == nil {
		t.Errorf("got %d, %v after an interrupt", len(batch), err)
	}
}

func TestBigIntegersKeepTheirDigits(t *testing.T) {
	got, err := parseObject([]byte(`{"a":9007199254740993,"b":9007199254740992,"c":-9223372036854775808,"d":{"e":[18446744073709551615]},"f":0.1,"g":-0,"h":null}`))
	if err != nil {
		t.Fatal(err)
	}
	want := message(map[string]any{
		"a": "9007199254740993", "b": 9007199254740992.0, "c": -9223372036854775808.0, "d": map[string]any{"e": []any{"18446744073709551615"}},
		"f": 0.1, "g": 0, "h": nil,
	}).GetJson()
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
