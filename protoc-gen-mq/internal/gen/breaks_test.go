package gen_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/cmd/protoc-gen-go/internal_gengo"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

// Two teams, each with a module of its own: air declares a topic, app handles it and publishes it, too.
var teams = map[string]string{
	"air/flights/v1/flights.proto": `syntax = "proto3";
package air.flights.v1;
import "google/protobuf/empty.proto";
import "mq/v1/options.proto";
option go_package = "example.com/air/flightsv1";
service FlightEvents {
  option (mq.v1.publisher) = {};
  rpc Departed(FlightDeparted) returns (google.protobuf.Empty);
}
message FlightDeparted {
  option (mq.v1.topic) = {name: "flights.departed"};
  string origin = 1 [(mq.v1.field).key = true];
  string destination = 2 [(mq.v1.field).header = "destination"];
  int32 delay_minutes = 3;
}
message Weather {
  option (mq.v1.topic) = {name: "weather"};
  string place = 1;
}
`,
	"app/rebooking/v1/rebooking.proto": `syntax = "proto3";
package app.rebooking.v1;
import "air/flights/v1/flights.proto";
import "google/protobuf/empty.proto";
import "mq/v1/options.proto";
option go_package = "example.com/app/rebookingv1";
service Rebooking {
  option (mq.v1.consumer) = {group: "rebooking"};
  rpc OnDeparted(air.flights.v1.FlightDeparted) returns (google.protobuf.Empty) {
    option (mq.v1.subscribe) = {filter: "msg.delay_minutes > 60 && headers['destination'] != 'HNL'"};
  }
}
service Replay {
  option (mq.v1.publisher) = {};
  rpc Departed(air.flights.v1.FlightDeparted) returns (google.protobuf.Empty);
}
`,
	"app/app.go": `package app

import (
	"context"
	"fmt"
	"time"

	"example.com/air/flightsv1"
	"example.com/air/flightsv1/flightsv1mq"
	"example.com/app/rebookingv1/rebookingv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

type rebooking struct{}

func (*rebooking) OnDeparted(ctx context.Context, departed *flightsv1.FlightDeparted) error {
	fmt.Println(departed.GetOrigin(), departed.GetDelayMinutes())
	return nil
}

func Run(ctx context.Context) error {
	client, err := mq.Dial(ctx)
	if err != nil {
		return err
	}
	pub := flightsv1mq.NewFlightEventsPublisher(client)
	if _, err := pub.Departed(ctx, &flightsv1.FlightDeparted{Origin: "SFO"}, mq.WithDelay(10*time.Minute)); err != nil {
		return err
	}
	w := mq.NewWorker(client)
	rebookingv1mq.RegisterRebookingConsumer(w, &rebooking{})
	return w.Run(ctx)
}
`,
}

// change replaces text in a file.
type change struct{ file, old, new string }

const (
	flights    = "air/flights/v1/flights.proto"
	rebookings = "app/rebooking/v1/rebooking.proto"
	app        = "app/app.go"
	generated  = "app/rebookingv1/rebookingv1mq/rebooking.mq.go" // is changed after it was generated
)

// Mistakes that fail the build: the generator's errors or the compiler's. In the stale cases air was generated anew and app was not, as when
// the one team publishes a version and the other takes it.
var breaks = []struct {
	name    string
	changes []change
	stale   bool
	want    string // what the errors contain; empty: the build succeeds
}{
	{"nothing wrong", nil, false, ""},
	{"a field is renamed and read by a handler", []change{{flights, "string origin", "string departure"}}, false,
		"app.go:17:23: departed.GetOrigin undefined (type *flightsv1.FlightDeparted has no field or method GetOrigin)"},
	{"a key is renamed under generated code", []change{{flights, "string origin", "string departure"}, {app, "GetOrigin", "GetDeparture"}, {app, "Origin:", "Departure:"}},
		true, "m.GetOrigin undefined (type *flightsv1.FlightDeparted has no field or method GetOrigin)"},
	{"a header is renamed under generated code", []change{{flights, "string destination", "string target"}},
		true, "m.GetDestination undefined (type *flightsv1.FlightDeparted has no field or method GetDestination)"},
	{"a key changes its type under generated code", []change{{flights, "string origin", "int32 origin"}, {app, `"SFO"`, "7"}},
		true, "cannot convert m.GetOrigin() (value of type int32) to type []byte"},
	{"a field is renamed and a filter has the old name", []change{{flights, "delay_minutes", "delay"}, {app, "GetDelayMinutes", "GetDelay"}}, false,
		"app/rebooking/v1/rebooking.proto:10:5: filter of rpc OnDeparted: 1:4: undefined field 'delay_minutes'; write a CEL expression"},
	{"a filter compares a number with text", []change{{rebookings, "> 60", "> '60'"}}, false,
		"app/rebooking/v1/rebooking.proto:10:5: filter of rpc OnDeparted: 1:19: found no matching overload for '_>_' applied to '(int, string)'"},
	{"a handler is missing", []change{{rebookings, "service Replay", "service More { option (mq.v1.consumer) = {group: \"more\"}; " +
		"rpc OnWeather(air.flights.v1.Weather) returns (google.protobuf.Empty); }\nservice Replay"},
		{app, "&rebooking{})\n", "&rebooking{})\n\trebookingv1mq.RegisterMoreConsumer(w, &rebooking{})\n"}}, false,
		"(missing method OnWeather)"},
	{"an rpc is added to a consumer", []change{{rebookings, "  rpc OnDeparted", "  rpc OnWeather(air.flights.v1.Weather) returns (google.protobuf.Empty);\n  rpc OnDeparted"}}, false,
		"*rebooking does not implement rebookingv1mq.RebookingConsumer (missing method OnWeather)"},
	{"a handler takes another message", []change{{app, "departed *flightsv1.FlightDeparted", "departed *flightsv1.Weather"}, {app, "departed.GetOrigin(), departed.GetDelayMinutes()", "departed"}}, false,
		"(wrong type for method OnDeparted)"},
	{"another message is published", []change{{app, `&flightsv1.FlightDeparted{Origin: "SFO"}`, `&flightsv1.Weather{Place: "SFO"}`}}, false,
		"cannot use &flightsv1.Weather{…} (value of type *flightsv1.Weather) as *flightsv1.FlightDeparted value in argument to pub.Departed"},
	{"an rpc is renamed", []change{{flights, "rpc Departed", "rpc Left"}}, false,
		"pub.Departed undefined (type flightsv1mq.FlightEventsPublisher has no field or method Departed)"},
	{"a message is no topic any more", []change{{flights, `option (mq.v1.topic) = {name: "flights.departed"};`, ""}, {flights, " [(mq.v1.field).key = true]", ""}, {flights, ` [(mq.v1.field).header = "destination"]`, ""},
		{flights, "rpc Departed(FlightDeparted)", "rpc Departed(Weather)"}}, false,
		"app/rebooking/v1/rebooking.proto:9:3: rpc OnDeparted handles air.flights.v1.FlightDeparted, which is no topic; add option (mq.v1.topic) = {} to the message"},
	{"a message is taken away under generated code", []change{{flights, "FlightDeparted", "Departure"}, {app, "flightsv1.FlightDeparted", "flightsv1.Departure"}}, true,
		"undefined: flightsv1.FlightDeparted"},
	{"a handler gets batches", []change{{rebookings, "{filter:", "{batch: {} filter:"}}, false,
		"want OnDeparted(context.Context, *mq.Batch[*flightsv1.FlightDeparted]) error"},
	{"a handler takes batches", []change{{rebookings, "{filter:", "{batch: {} filter:"},
		{app, "departed *flightsv1.FlightDeparted) error {", "batch *mq.Batch[*flightsv1.FlightDeparted]) error {\n\tdeparted := batch.At(0)"}}, false, ""},
	{"a handler is to settle", []change{{rebookings, "{filter:", "{handler: HANDLER_STYLE_DELIVERY filter:"}}, false,
		"want OnDeparted(context.Context, *mq.Delivery[*flightsv1.FlightDeparted]) error"},
	{"a handler settles", []change{{rebookings, "{filter:", "{handler: HANDLER_STYLE_DELIVERY filter:"},
		{app, "departed *flightsv1.FlightDeparted) error {", "delivery *mq.Delivery[*flightsv1.FlightDeparted]) error {\n\tdeparted := delivery.Message()"},
		{app, "return nil\n}\n\nfunc Run", "return delivery.Ack(ctx)\n}\n\nfunc Run"}}, false, ""},
	{"a constant that the library does not have", []change{{generated, "mq.GeneratedCodeV1", "mq.GeneratedCodeV0"}}, false, "undefined: mq.GeneratedCodeV0"},
	{"an option of a subscriber is given to a publisher", []change{{app, "mq.WithDelay(10*time.Minute)", "mq.WithConcurrency(int(time.Second))"}}, false,
		"cannot use mq.WithConcurrency(int(time.Second)) (value of func type mq.WorkerOption) as mq.PublishOption value in argument to pub.Departed"},
}

func TestCompileBreaks(t *testing.T) {
	built := workspace(t)
	for _, test := range breaks {
		t.Run(test.name, func(t *testing.T) {
			files := maps.Clone(teams)
			var after []change
			for _, c := range test.changes {
				if c.file == generated {
					after = append(after, c)
					continue
				}
				if !strings.Contains(files[c.file], c.old) {
					t.Fatalf("%s does not contain %q", c.file, c.old)
				}
				files[c.file] = strings.ReplaceAll(files[c.file], c.old, c.new)
			}
			old := maps.Clone(files)
			if test.stale {
				old[rebookings], old[flights] = teams[rebookings], teams[flights]
			}
			got := built(t, files, old, after...)
			switch {
			case test.want == "" && got != "":
				t.Errorf("got\n%s", got)
			case test.want != "" && !strings.Contains(got, test.want):
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			case test.want != "":
				t.Log(lineWith(got, test.want))
			}
		})
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// workspace makes a Go workspace of both modules and this one. The function it returns generates code for air's files and, from other sources, for
// app's, builds everything, and returns what the generator or else the compiler says.
func workspace(t *testing.T) func(t *testing.T, air, app map[string]string, after ...change) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.GoVersion}} {{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	version, root, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	write := func(t *testing.T, name, content string) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(t, "go.work", "go "+version+"\nuse (\n\t./air\n\t./app\n\t"+root+"\n)\n")
	write(t, "air/go.mod", "module example.com/air\ngo "+version+"\n")
	write(t, "app/go.mod", "module example.com/app\ngo "+version+"\n")
	return func(t *testing.T, air, app map[string]string, after ...change) string {
		t.Helper()
		for _, m := range []struct {
			name, file string
			sources    map[string]string
		}{{"air", flights, air}, {"app", rebookings, app}} {
			r := request(t, inMemory(m.sources), "module=example.com/"+m.name, m.file)
			typed := generate(t, r)
			if typed.GetError() != "" {
				return typed.GetError()
			}
			for _, f := range append(typed.GetFile(), messages(t, r).GetFile()...) {
				name, content := m.name+"/"+f.GetName(), f.GetContent()
				for _, c := range after {
					if c.file == name {
						content = strings.ReplaceAll(content, c.old, c.new)
					}
				}
				write(t, name, content)
			}
		}
		write(t, "app/app.go", air["app/app.go"]) // the code is the same for both
		build := exec.CommandContext(t.Context(), "go", "build", "./...")
		build.Dir = filepath.Join(dir, "app")
		build.Env = append(os.Environ(), "GOWORK="+filepath.Join(dir, "go.work"), "GOPROXY=off")
		out, err := build.CombinedOutput()
		if (err == nil) != (len(out) == 0) {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
}

// messages is what protoc-gen-go answers.
func messages(t *testing.T, request []byte) *pluginpb.CodeGeneratorResponse {
	t.Helper()
	r := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(request, r); err != nil {
		t.Fatal(err)
	}
	plugin, err := protogen.Options{}.New(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range plugin.Files {
		if f.Generate {
			internal_gengo.GenerateFile(plugin, f)
		}
	}
	response := plugin.Response()
	if response.GetError() != "" {
		t.Fatal(response.GetError())
	}
	return response
}
