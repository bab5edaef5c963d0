package filter_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/typedmq/typedmq/internal/filter"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// The path of flight.proto is one that a file linked into this test has, to show that the linked file is not used instead.
const flightPath = "mq/broker/v1/records.proto"

const flightSource = `
syntax = "proto3";
package air.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
message Flight {
  string origin = 1;
  int32 delay_minutes = 2;
  uint32 seats = 3;
  double load = 4;
  bool diverted = 5;
  Status status = 6;
  google.protobuf.Timestamp departed = 7;
  google.protobuf.Duration airborne = 8;
  Aircraft aircraft = 9;
  repeated Leg legs = 10;
  map<string, string> labels = 11;
  optional int32 gate = 12;
  bytes token = 13;
  google.protobuf.Int32Value crew = 14;
  string in = 15;
  oneof cargo { string parcel = 16; int64 weight = 17; }
  enum Status { STATUS_UNSPECIFIED = 0; STATUS_LATE = 1; }
  message Leg { string to = 1; repeated string crew = 2; repeated Leg legs = 3; }
}
message Aircraft { string tail = 1; int64 hours = 2; }
`

func flight(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{flightPath: flightSource}),
	})}
	files, err := compiler.Compile(t.Context(), flightPath)
	if err != nil {
		t.Fatal(err)
	}
	return files[0].Messages().ByName("Flight")
}

func decode(t testing.TB, d protoreflect.MessageDescriptor, json string) func() (protoreflect.Message, error) {
	t.Helper()
	m := dynamicpb.NewMessage(d)
	if err := protojson.Unmarshal([]byte(json), m); err != nil {
		t.Fatal(err)
	}
	return func() (protoreflect.Message, error) { return m, nil }
}

func TestMatch(t *testing.T) {
	d := flight(t)
	message := decode(t, d, `{
		"origin": "SFO", "delayMinutes": 75, "seats": 180, "load": 0.75, "diverted": true, "status": "STATUS_LATE",
		"departed": "2001-01-01T00:47:00Z", "airborne": "5400s", "aircraft": {"tail": "N123", "hours": "9000"},
		"legs": [{"to": "LAX", "crew": ["ann", "bob"]}, {"to": "HNL"}], "labels": {"team": "west"}, "gate": 0,
		"token": "AQI=", "crew": 7, "in": "x", "weight": "12"
	}`)
	headers := filter.HeaderMap{"destination": "LAX", "n": "0"}
	for _, test := range []struct {
		expr  string
		want  bool
		fails bool
	}{
		{expr: `true`, want: true},
		{expr: `msg.delay_minutes > 60`, want: true},
		{expr: `msg.delay_minutes > 74.5`, want: true},
		{expr: `msg.delay_minutes >= 60u`, want: true},
		{expr: `msg.delay_minutes == 75`, want: true},
		{expr: `msg.seats > 100`, want: true},
		{expr: `msg.seats == 180u`, want: true},
		{expr: `msg.load < 1`, want: true},
		{expr: `msg.diverted && !(msg.origin == "LAX")`, want: true},
		{expr: `msg.status == Status.STATUS_LATE`, want: true},
		{expr: `msg.status == Flight.Status.STATUS_LATE && msg.status == air.v1.Flight.Status.STATUS_LATE`, want: true},
		{expr: `msg.status == 1`, want: true},
		{expr: `msg.departed < timestamp("2001-01-02T00:00:00Z") && msg.departed.getHours() == 0`, want: true},
		{expr: `msg.airborne > duration("1h")`, want: true},
		{expr: `msg.aircraft.tail.startsWith("N") && msg.aircraft.hours > 100`, want: true},
		{expr: `msg.legs.exists(l, l.to == "HNL")`, want: true},
		{expr: `msg.legs.exists(l, l.crew.exists(c, c == "bob"))`, want: true},
		{expr: `msg.legs.all(l, l.to == "HNL")`},
		{expr: `msg.labels["team"] == "west" && "team" in msg.labels`, want: true},
		{expr: `msg.labels["nobody"] == "west"`, fails: true},
		{expr: `has(msg.gate) && !has(msg.parcel) && has(msg.weight)`, want: true},
		{expr: `msg.token == b"\x01\x02"`, want: true},
		{expr: `msg.crew == 7`, want: true},
		{expr: "msg.`in` == 'x'", want: true},
		{expr: `msg.origin.contains("F") && msg.origin.endsWith("O") && msg.origin.matches("^S.O$") && size(msg.origin) == 3`, want: true},
		{expr: `key == "SFO"`, want: true},
		{expr: `headers["destination"] == "LAX"`, want: true},
		{expr: `headers["destination"] != "HNL" && msg.delay_minutes > 60`, want: true},
		{expr: `headers.destination.startsWith("L")`, want: true},
		{expr: `headers[key] == "x"`},
		{expr: `size(headers) == 2 && headers.exists(h, h == "n") && "n" in headers`, want: true},
		{expr: `headers == {"destination": "LAX", "n": "0"}`, want: true},

		// A header that is not there.
		{expr: `headers["gone"] == "x"`},
		{expr: `headers["gone"] != "x"`},
		{expr: `!(headers["gone"] == "x")`},
		{expr: `headers["gone"] == "x" || msg.delay_minutes > 60`, want: true},
		{expr: `has(headers.gone)`},
		{expr: `!has(headers.gone) && !("gone" in headers)`, want: true},
		{expr: `has(headers.gone) || 1 / int(headers["n"]) == 1`, fails: true},
		{expr: `headers["gone"] == "x" && msg.delay_minutes > 60`},

		// Failures at run time.
		{expr: `1 / (msg.delay_minutes - 75) == 1`, fails: true},
		{expr: `msg.legs[5].to == "LAX"`, fails: true},
		{expr: `int(msg.origin) == 1`, fails: true},
	} {
		t.Run(test.expr, func(t *testing.T) {
			f, err := filter.Compile(test.expr, d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Match(filter.Input{Message: message, Key: []byte("SFO"), Headers: headers})
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("got %t and %v, want %t and failure %t", got, err, test.want, test.fails)
			}
			if f.String() != test.expr {
				t.Errorf("String() = %q", f)
			}
		})
	}
}

func TestMatchGeneratedMessage(t *testing.T) {
	m := &brokerv1.Record{Id: "7", Headers: []*brokerv1.Header{{Name: "a", Value: "b"}}}
	f, err := filter.Compile(`msg.id == "7" && msg.headers.exists(h, h.name == "a")`, m.ProtoReflect().Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Match(filter.Input{Message: func() (protoreflect.Message, error) { return m.ProtoReflect(), nil }})
	if !got || err != nil {
		t.Errorf("got %t and %v", got, err)
	}
	stamp, err := filter.Compile(`msg > timestamp("2001-01-01T00:00:00Z")`, (&timestamppb.Timestamp{}).ProtoReflect().Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	got, err = stamp.Match(filter.Input{Message: func() (protoreflect.Message, error) { return timestamppb.Now().ProtoReflect(), nil }})
	if !got || err != nil {
		t.Errorf("got %t and %v", got, err)
	}
}

func TestNeedsMessage(t *testing.T) {
	d := flight(t)
	for expr, want := range map[string]bool{
		`msg.origin == "SFO"`:                   true,
		`msg == Flight{}`:                       true,
		`headers["a"] == "b" && key != ""`:      false,
		`key == "msg"`:                          false,
		`[1, 2].exists(m, m > 1)`:               false,
		`headers["a"] == "b" || msg.seats > 1u`: true,
	} {
		f, err := filter.Compile(expr, d)
		if err != nil {
			t.Fatal(err)
		}
		if f.NeedsMessage() != want {
			t.Errorf("%s: got %t", expr, f.NeedsMessage())
		}
	}
}

func TestMatchDecodesAtMostOnceAndReportsIt(t *testing.T) {
	d := flight(t)
	f, err := filter.Compile(`headers["a"] == "b" && (msg.seats > 1u || msg.delay_minutes > 1)`, d)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	broken := errors.New("broken")
	in := filter.Input{
		Message: func() (protoreflect.Message, error) { calls++; return nil, broken },
		Headers: filter.HeaderMap{"a": "c"},
	}
	if got, err := f.Match(in); got || err != nil || calls != 0 {
		t.Errorf("headers decide: got %t, %v and %d calls", got, err, calls)
	}
	in.Headers = filter.HeaderMap{"a": "b"}
	if got, err := f.Match(in); got || !errors.Is(err, broken) || calls != 1 {
		t.Errorf("got %t, %v and %d calls", got, err, calls)
	}
	calls = 0
	in.Message = func() (protoreflect.Message, error) { calls++; return dynamicpb.NewMessage(d), nil }
	if got, err := f.Match(in); got || err != nil || calls != 1 {
		t.Errorf("both fields are read: got %t, %v and %d calls", got, err, calls)
	}
	if got, err := f.Match(filter.Input{Headers: in.Headers}); got || err == nil {
		t.Errorf("without a message: got %t and %v", got, err)
	}
	if got, err := f.Match(filter.Input{}); got || err == nil {
		t.Errorf("without anything: got %t and %v", got, err)
	}
}

func TestMatchStopsAtMaxCost(t *testing.T) {
	d := flight(t)
	f, err := filter.Compile(`msg.legs.exists(a, msg.legs.exists(b, a.to != b.to))`, d)
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(d)
	legs := m.Mutable(d.Fields().ByName("legs")).List()
	for range 3000 {
		legs.Append(legs.NewElement())
	}
	got, err := f.Match(filter.Input{Message: func() (protoreflect.Message, error) { return m, nil }})
	if got || err == nil || !strings.Contains(err.Error(), "cost limit exceeded") {
		t.Errorf("got %t and %v", got, err)
	}
}

func TestCompileErrors(t *testing.T) {
	d := flight(t)
	for _, test := range []struct{ name, expr, want string }{
		{"syntax", `msg.delay >`, `FILTER_SYNTAX 1:12`},
		{"empty", ``, `FILTER_SYNTAX 1:1`},
		{"second line", "true &&\n  )", `FILTER_SYNTAX 2:3`},
		{"unknown field", `msg.delay > 60`, `FILTER_TYPE 1:4`},
		{"unknown name", `message.delay > 60`, `FILTER_TYPE 1:1`},
		{"operands", `msg.origin > 60`, `FILTER_TYPE 1:12`},
		{"header is a string", `headers["a"] > 60`, `FILTER_TYPE 1:14`},
		{"unknown function", `msg.origin.lowercase() == "x"`, `FILTER_TYPE 1:21`},
		{"unknown enum value", `msg.status == Status.EARLY`, `FILTER_TYPE 1:15`},
		{"regular expression", `msg.origin.matches("(")`, `FILTER_TYPE 1:20`},
		{"duration", `msg.airborne > duration("1 hour")`, `FILTER_TYPE 1:25`},
		{"not bool", `msg.delay_minutes`, `FILTER_NOT_BOOL 1:1`},
		{"dynamic", `dyn(true)`, `FILTER_NOT_BOOL 1:1`},
		{"5 KiB", strings.Repeat(" ", 5<<10) + "true", `FILTER_TOO_LARGE 0:0`},
		{"deep", strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500), `FILTER_TOO_LARGE 1:1`},
		{"deep lists", strings.Repeat("[", 300) + strings.Repeat("]", 300) + "== []", `FILTER_TOO_LARGE 1:1`},
		{"nested macros", `msg.legs.all(a, msg.legs.all(b, msg.legs.all(c, a.to != b.to)))`, `FILTER_TOO_COSTLY 1:1`},
		{"uint", `msg.seats == 180`, `FILTER_TYPE 1:11`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := filter.Compile(test.expr, d)
			var e *filter.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if got := e.Reason + " " + place(e); got != test.want {
				t.Errorf("got %s, want %s: %v", got, test.want, e)
			}
			if e.Detail == "" || strings.Contains(e.Error(), "\n") {
				t.Errorf("not one line: %q", e.Error())
			}
		})
	}
}

// One compiler compiles expressions over several messages of a file; none of them sees the message or the names of another.
func TestCompiler(t *testing.T) {
	var c filter.Compiler
	flight := flight(t)
	leg, aircraft := flight.Messages().ByName("Leg"), flight.ParentFile().Messages().ByName("Aircraft")
	for _, test := range []struct {
		expr string
		msg  protoreflect.MessageDescriptor
		want string // of the error
	}{
		{"msg.delay_minutes > 1 && msg.status == Status.STATUS_LATE", flight, ""},
		{"msg.hours > 1", aircraft, ""},
		{"msg.delay_minutes > 1", aircraft, "undefined field 'delay_minutes'"},
		{"msg.hours > 1", flight, "undefined field 'hours'"},
		{"Status.STATUS_LATE == 1", aircraft, "undeclared reference"},
		{"msg.to == key", leg, ""},
		{"msg.delay_minutes > 1 && msg.status == Status.STATUS_LATE", flight, ""},
	} {
		f, err := c.Compile(test.expr, test.msg)
		if test.want == "" && (err != nil || f.String() != test.expr) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s over %s: %v", test.expr, test.msg.FullName(), err)
		}
	}
	f, err := c.Compile("msg.hours > 1", aircraft)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := f.Match(filter.Input{Message: decode(t, aircraft, `{"hours": "2"}`)}); !ok || err != nil {
		t.Errorf("matched %t, %v", ok, err)
	}
}

func place(e *filter.Error) string {
	before, _, _ := strings.Cut(strings.TrimPrefix((&filter.Error{Line: e.Line, Column: e.Column}).Error(), "filter: "), ": ")
	if e.Line == 0 {
		return "0:0"
	}
	return before
}

func TestMatchConcurrently(t *testing.T) {
	d := flight(t)
	f, err := filter.Compile(`msg.legs.exists(l, l.to == key) && headers["a"] == key`, d)
	if err != nil {
		t.Fatal(err)
	}
	message := decode(t, d, `{"legs": [{"to": "LAX"}]}`)
	var wg sync.WaitGroup
	for i := range 8 {
		key := []string{"LAX", "HNL"}[i%2]
		wg.Go(func() {
			for range 200 {
				got, err := f.Match(filter.Input{Message: message, Key: []byte(key), Headers: filter.HeaderMap{"a": key}})
				if got != (key == "LAX") || err != nil {
					t.Errorf("%s: got %t and %v", key, got, err)
				}
			}
		})
	}
	wg.Wait()
}

// FuzzCompile looks for expressions that panic, and for compiled ones that panic or answer true together with an error.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		`msg.delay_minutes > 60 && headers['destination'] != 'HNL'`, `has(msg.gate)`, `msg.legs.exists(l, l.to == key)`,
		`Flight{origin: "x"} == msg`, `msg.labels.all(k, msg.labels[k] != "")`, `timestamp("x")`, `{1: 2}[key]`, "msg.`in`",
		`"a".matches(msg.origin)`, `[[]]`, `b"\xff" == msg.token`, `1/0 == 0`, `type(msg) == Flight`, `msg.departed == null`,
	} {
		f.Add(seed)
	}
	d := flight(f)
	m := decode(f, d, `{"origin": "SFO", "legs": [{"to": "LAX"}], "labels": {"a": "b"}, "departed": "2001-01-01T00:47:00Z"}`)
	f.Fuzz(func(t *testing.T, expr string) {
		compiled, err := filter.Compile(expr, d)
		if err != nil {
			var e *filter.Error
			if !errors.As(err, &e) || e.Reason == "" {
				t.Fatalf("not an *Error: %v", err)
			}
			return
		}
		got, err := compiled.Match(filter.Input{Message: m, Key: []byte("SFO"), Headers: filter.HeaderMap{"destination": "LAX"}})
		if got && err != nil {
			t.Fatalf("true with %v", err)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	d := flight(b)
	message := decode(b, d, `{"origin": "SFO", "delayMinutes": 75, "legs": [{"to": "LAX"}, {"to": "HNL"}]}`)
	m, _ := message()
	payload, err := proto.Marshal(m.Interface())
	if err != nil {
		b.Fatal(err)
	}
	decodeEach := func() (protoreflect.Message, error) {
		m := dynamicpb.NewMessage(d)
		return m, proto.Unmarshal(payload, m)
	}
	for _, bench := range []struct {
		name, expr string
		message    func() (protoreflect.Message, error)
	}{
		{"field", `msg.delay_minutes > 60`, message},
		{"header", `headers["destination"] != "HNL"`, message},
		{"missing header", `headers["gone"] != "HNL"`, message},
		{"both", `msg.delay_minutes > 60 && headers["destination"] != "HNL"`, message},
		{"loop", `msg.legs.exists(l, l.to == "HNL")`, message},
		{"decode and field", `msg.delay_minutes > 60`, decodeEach},
	} {
		b.Run(bench.name, func(b *testing.B) {
			f, err := filter.Compile(bench.expr, d)
			if err != nil {
				b.Fatal(err)
			}
			in := filter.Input{Message: bench.message, Key: []byte("SFO"), Headers: filter.HeaderMap{"destination": "LAX"}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Match(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	d := flight(b)
	for b.Loop() {
		if _, err := filter.Compile(`msg.delay_minutes > 60 && headers["destination"] != "HNL"`, d); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHeaderNames: however a header is named, and only headers.
func TestHeaderNames(t *testing.T) {
	d := flight(t)
	for expr, want := range map[string]string{
		`headers["a"] == "x" && headers.b == "y" && has(headers.c) && "d" in headers && headers["a"] != ""`: "a b c d",
		`msg.origin == "a" && key == "b"`:                                     "",
		`headers[msg.origin] == "x"`:                                          "",
		`headers.exists(h, h == "a")`:                                         "",
		`msg.legs.exists(l, headers["in"] == l.to && l.to in headers)`:        "in",
		`"destination" in msg.labels && {"x": "y"}["x"] == headers["really"]`: "really",
	} {
		f, err := filter.Compile(expr, d)
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		if got := strings.Join(f.HeaderNames(), " "); got != want {
			t.Errorf("%s names %q, should be %q", expr, got, want)
		}
	}
}
