//go:build measure

package sidecar_test

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar"
)

// TestMeasureIdle prints what topics and groups cost that nobody uses: memory, processor time, and time to start.
func TestMeasureIdle(t *testing.T) {
	for _, c := range []struct{ topics, groups int }{{1, 1}, {1, 1000}, {1000, 1}, {10_000, 1}} {
		t.Run(fmt.Sprintf("topics=%d groups=%d", c.topics, c.groups), func(t *testing.T) { measureIdle(t, c.topics, c.groups) })
	}
}

func measureIdle(t *testing.T, topics, groups int) {
	cfg := settings(t)
	s := start(t, cfg)
	before := resident(t)
	began := time.Now()
	api := brokerv1connect.NewBrokerServiceClient(http.DefaultClient, "http://"+s.Addr())
	const perFile = 500
	for first := 0; first < topics; first += perFile {
		files, names, rpcs := idleFiles(first, min(perFile, topics-first), groups)
		_, err := api.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{Descriptors: files, Topics: names, Subscriptions: rpcs}))
		if err != nil {
			t.Fatal(err)
		}
	}
	declared := time.Since(began)
	time.Sleep(2 * time.Second)
	report := func(what string, s *sidecar.Sidecar, took time.Duration) {
		cpu, wall := processor(), time.Now()
		time.Sleep(5 * time.Second)
		busy := float64(processor()-cpu) / float64(time.Since(wall)) * 100
		t.Logf("%s: took %v, resident %d MiB (%+d), %d goroutines, idle at %.2f %% of a core", what, took.Round(time.Millisecond), resident(t)>>20,
			(resident(t)-before)>>20, runtime.NumGoroutine(), busy)
	}
	report("declared", s, declared)
	shutdown(t, s)
	began = time.Now()
	s = start(t, cfg)
	report("restarted", s, time.Since(began))
	shutdown(t, s)
}

// idleFiles declares topics of messages with one field, and consumers of each in so many groups.
func idleFiles(first, topics, groups int) (*descriptorpb.FileDescriptorSet, []string, []string) {
	f := &descriptorpb.FileDescriptorProto{
		Name: proto.String(fmt.Sprintf("idle/%d.proto", first)), Package: proto.String(fmt.Sprintf("idle%d", first)), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/empty.proto", "mq/v1/options.proto"},
	}
	var names, rpcs []string
	for i := range topics {
		name := fmt.Sprintf("M%d", i)
		o := new(descriptorpb.MessageOptions)
		proto.SetExtension(o, mqv1.E_Topic, &mqv1.TopicOptions{Retention: durationpb.New(time.Hour)})
		f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: &name, Options: o, Field: []*descriptorpb.FieldDescriptorProto{{
			Name: proto.String("id"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}}})
		names = append(names, f.GetPackage()+"."+name)
	}
	for g := range groups {
		so := new(descriptorpb.ServiceOptions)
		proto.SetExtension(so, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: proto.String(fmt.Sprintf("group%d", g))})
		svc := &descriptorpb.ServiceDescriptorProto{Name: proto.String(fmt.Sprintf("S%d", g)), Options: so}
		for i := range topics {
			svc.Method = append(svc.Method, &descriptorpb.MethodDescriptorProto{
				Name: proto.String(fmt.Sprintf("On%d", i)), InputType: proto.String("." + names[i]), OutputType: proto.String(".google.protobuf.Empty"),
			})
			rpcs = append(rpcs, fmt.Sprintf("%s.S%d/On%d", f.GetPackage(), g, i))
		}
		f.Service = append(f.Service, svc)
	}
	return &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto), protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(emptypb.File_google_protobuf_empty_proto), protodesc.ToFileDescriptorProto(mqv1.File_mq_v1_options_proto), f,
	}}, names, rpcs
}

// resident is the memory of the process that is in RAM, in bytes, garbage collected first.
func resident(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kb int64
	for _, line := range strings.Split(string(status), "\n") {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// processor is the processor time that the process has used.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
