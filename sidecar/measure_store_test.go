//go:build measure

package sidecar_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	storeTopic   = "measure.store"
	storeGroup   = "measure"
	storePayload = 256
)

// TestMeasureStore runs the real binary and prints what a backlog costs: the time from its start to ready after kill -9, its memory, what it writes for each byte of
// payload, and a fetch when 10 million messages were settled, beside one on an empty store. STORE_MESSAGES replaces the 10 million.
func TestMeasureStore(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "mq")
	if out, err := exec.Command("go", "build", "-o", binary, "./cmd/mq").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	most := 10_000_000
	if n, err := strconv.Atoi(os.Getenv("STORE_MESSAGES")); err == nil {
		most = n
	}
	began := time.Now()
	note := func(format string, args ...any) {
		t.Logf("%6.1f s  %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}

	empty := runProcess(t, binary, t.TempDir())
	time.Sleep(2 * time.Second)
	base := empty.resident(t)
	note("empty store: ready after %v, resident %d MiB, of which etcd is most", empty.took.Round(time.Millisecond), base>>20)
	empty.kill(t)

	for _, pending := range []int{most / 100, most / 10, most} {
		dir := t.TempDir()
		p := runProcess(t, binary, dir)
		p.declare(t)
		wrote, filling := p.written(t), time.Now()
		p.fill(t, pending)
		took := time.Since(filling)
		wrote = p.written(t) - wrote
		p.kill(t)
		var starts []time.Duration
		for range 3 {
			p = runProcess(t, binary, dir)
			starts = append(starts, p.took)
			if len(starts) < 3 {
				p.kill(t)
			}
		}
		if lag := p.lag(t); lag != int64(pending) {
			t.Errorf("%d messages are pending, want %d", lag, pending)
		}
		time.Sleep(2 * time.Second)
		at := p.resident(t)
		note("%8d pending: published at %.0f/s, %.2f bytes written for each of payload; ready after kill -9 in %v; resident %d MiB, %+d MiB to an empty store",
			pending, float64(pending)/took.Seconds(), float64(wrote)/float64(pending*storePayload), starts, at>>20, (at-base)>>20)
		if pending == most {
			before, settling := p.written(t), time.Now()
			peak := p.settleAll(t, pending)
			took = time.Since(settling)
			freed := freedWithin(dir, time.Minute)
			wrote += p.written(t) - before
			note("%8d settled at %.0f/s, at most %d MiB resident; %.2f bytes written for each of payload from publish to delete; %d MiB left on disk after %v",
				pending, float64(pending)/took.Seconds(), peak>>20, float64(wrote)/float64(pending*storePayload), diskUse(dir)>>20, freed.Round(time.Second))
			fresh := runProcess(t, binary, t.TempDir())
			fresh.declare(t)
			compare(t, note, fresh, p)
			fresh.kill(t)
		}
		p.kill(t)
	}
}

// process is a running `mq serve`.
type process struct {
	cmd    *exec.Cmd
	addr   string
	took   time.Duration // from its start to ready
	broker brokerv1connect.BrokerServiceClient
	admin  adminv1connect.AdminServiceClient
	killed bool
}

func runProcess(t *testing.T, binary, dir string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary, "serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--socket", "none", "--log-format", "json")}
	logs, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(t) })
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		var line struct{ Msg, Addr, Level string }
		_ = json.Unmarshal(lines.Bytes(), &line)
		if line.Level == "ERROR" {
			t.Error(lines.Text())
		}
		if line.Msg == "ready" {
			p.addr, p.took = line.Addr, time.Since(began)
			break
		}
	}
	if p.addr == "" {
		t.Fatal("mq serve ended before it was ready")
	}
	go func() {
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"ERROR"`) {
				t.Error(lines.Text())
			}
		}
	}()
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: (&net.Dialer{}).DialContext}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: transport}
	p.broker = brokerv1connect.NewBrokerServiceClient(client, "http://"+p.addr, connect.WithAcceptCompression("gzip", nil, nil)) // as the SDK
	p.admin = adminv1connect.NewAdminServiceClient(client, "http://"+p.addr)
	return p
}

func (p *process) kill(t *testing.T) {
	if p.killed {
		return
	}
	p.killed = true
	if err := p.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.cmd.Wait()
}

// number reads a line of a file of /proc about the process.
func (p *process) number(t *testing.T, file, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %s", name, file)
	return 0
}

func (p *process) resident(t *testing.T) int64 { return p.number(t, "status", "VmRSS") << 10 }
func (p *process) written(t *testing.T) int64  { return p.number(t, "io", "write_bytes") }

// processorTime of the process, in steps of 10 ms.
func (p *process) processorTime(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func diskUse(dir string) (n int64) {
	_ = filepath.WalkDir(filepath.Join(dir, "store"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "BALLAST" {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// freedWithin waits until the store holds little more than the write-ahead logs that it keeps to use again, and returns how long that took.
func freedWithin(dir string, most time.Duration) time.Duration {
	began := time.Now()
	for diskUse(dir) > 256<<20 && time.Since(began) < most {
		time.Sleep(time.Second)
	}
	return time.Since(began)
}

// declare declares the queue and its group.
func (p *process) declare(t *testing.T) {
	t.Helper()
	o := new(descriptorpb.MessageOptions)
	proto.SetExtension(o, mqv1.E_Topic, &mqv1.TopicOptions{
		Name: proto.String(storeTopic), Delivery: mqv1.Delivery_DELIVERY_QUEUE.Enum(), Ordering: mqv1.Ordering_ORDERING_NONE.Enum(), Partitions: proto.Uint32(16),
	})
	so := new(descriptorpb.ServiceOptions)
	proto.SetExtension(so, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: proto.String(storeGroup)})
	f := &descriptorpb.FileDescriptorProto{
		Name: proto.String("measure.proto"), Package: proto.String("measure"), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/empty.proto", "mq/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M"), Options: o, Field: []*descriptorpb.FieldDescriptorProto{{
			Name: proto.String("data"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Options: so, Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("OnM"), InputType: proto.String(".measure.M"), OutputType: proto.String(".google.protobuf.Empty"),
		}}}},
	}
	files := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto), protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(emptypb.File_google_protobuf_empty_proto), protodesc.ToFileDescriptorProto(mqv1.File_mq_v1_options_proto), f,
	}}
	_, err := p.broker.Declare(t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{Descriptors: files, Topics: []string{"measure.M"}, Subscriptions: []string{"measure.S/OnM"}}))
	if err != nil {
		t.Fatal(err)
	}
}

// frame is the encoding of a RecordSet of n messages of 256 bytes that do not compress.
func frame(n int, rng *rand.ChaCha8) []byte {
	payload := make([]byte, storePayload)
	var set []byte
	for range n {
		_, _ = rng.Read(payload)
		copy(payload, []byte{0x0a, 0xfd, 0x01}) // field 1 of 253 bytes
		record := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), payload)
		set = engine.AppendRecord(set, record)
	}
	return set
}

// fill publishes over four streams, in frames of 2,000.
func (p *process) fill(t *testing.T, n int) {
	t.Helper()
	const streams, size = 4, 2000
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for s := range streams {
		all.Go(func() {
			rng := rand.NewChaCha8([32]byte{byte(s)})
			stream := p.broker.PublishStream(t.Context())
			for seq := uint64(1); ; seq++ {
				after := left.Add(-size)
				k := int(min(size, after+size))
				if k <= 0 {
					break
				}
				err := stream.Send(&brokerv1.PublishStreamRequest{Sequence: seq, Batches: []*brokerv1.TopicRecords{{Topic: storeTopic, Records: frame(k, rng)}}})
				if err != nil {
					t.Error(err)
					return
				}
				answer, err := stream.Receive()
				if err != nil || answer.Results[0].Refusal != nil {
					t.Error(err, answer)
					return
				}
			}
			_ = stream.CloseRequest()
			_ = stream.CloseResponse()
		})
	}
	all.Wait()
}

func (p *process) lag(t *testing.T) (lag int64) {
	t.Helper()
	answer, err := p.admin.ListGroups(t.Context(), connect.NewRequest(&adminv1.ListGroupsRequest{Group: storeGroup}))
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range answer.Msg.Groups {
		for _, part := range g.Partitions {
			lag += int64(part.Lag)
		}
	}
	return lag
}

// settleAll consumes and acknowledges n messages over four streams. It returns the greatest memory it saw.
func (p *process) settleAll(t *testing.T, n int) (peak int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var settled atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			stream := p.broker.Consume(ctx)
			context.AfterFunc(ctx, func() { _ = stream.CloseRequest() }) // HTTP/2 ends no request while its body is being read
			send := func(m *brokerv1.ConsumeRequest) {
				if err := stream.Send(m); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
			send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Start_{Start: &brokerv1.ConsumeRequest_Start{Group: storeGroup, Topic: storeTopic, Credits: 65_536}}})
			heard := time.Now()
			for {
				m, err := stream.Receive()
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				if time.Since(heard) > time.Second {
					heard = time.Now()
					send(&brokerv1.ConsumeRequest{Message: &brokerv1.ConsumeRequest_Heartbeat_{Heartbeat: &brokerv1.ConsumeRequest_Heartbeat{}}})
				}
				var tokens []byte
				for _, slice := range m.GetDeliveries().GetSlices() {
					tokens = append(tokens, slice.Tokens...)
				}
				if len(tokens) == 0 {
					continue
				}
				all.Go(func() {
					for part := range slices.Chunk(tokens, 32*5000) {
						answer, err := p.broker.Settle(ctx, connect.NewRequest(&brokerv1.SettleRequest{Group: storeGroup, Topic: storeTopic, Acks: part}))
						if err != nil || len(answer.Msg.Refusals) > 0 {
							if ctx.Err() == nil {
								t.Error(err, answer)
							}
							return
						}
						if settled.Add(int64(len(part)/32)) >= int64(n) {
							cancel()
						}
					}
				})
			}
		})
	}
	for begun, last, since := time.Now(), int64(0), time.Now(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
		peak = max(peak, p.resident(t))
		if now := settled.Load(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > 20*time.Second {
			t.Errorf("%d of %d settled after %v, and no more come", last, n, time.Since(begun))
			cancel()
		}
	}
	all.Wait()
	return peak
}

// compare tells what a fetch costs on two stores. They take turns, so that what else the machine does meets both, and each is the median of its turns.
func compare(t *testing.T, note func(string, ...any), fresh, settled *process) {
	t.Helper()
	const turns = 9
	var costs [2][]cost
	for turn := range turns + 1 {
		for i, p := range []*process{fresh, settled} {
			if c := p.fetches(t, 500); turn > 0 { // the first is to warm up
				costs[i] = append(costs[i], c)
			}
		}
	}
	median := func(all []cost, of func(cost) time.Duration) time.Duration {
		var each []time.Duration
		for _, c := range all {
			each = append(each, of(c))
		}
		slices.Sort(each)
		return each[len(each)/2]
	}
	for _, m := range []struct {
		name string
		of   func(cost) time.Duration
	}{
		{"p50 of the fetch alone", func(c cost) time.Duration { return c.p50 }},
		{"processor time to publish, fetch and settle", func(c cost) time.Duration { return c.cpu }},
	} {
		a, b := median(costs[0], m.of), median(costs[1], m.of)
		note("one message, %s: %v on an empty store, %v after all that was settled (%+.0f %%)", m.name, a, b, 100*(float64(b)/float64(a)-1))
	}
}

// cost is that of a fetch.
type cost struct{ p50, cpu time.Duration }

// fetches publishes a message, pulls it, and settles it, so many times.
func (p *process) fetches(t *testing.T, rounds int) cost {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{9})
	var took []time.Duration
	before := p.processorTime(t)
	for range rounds {
		p.publishOne(t, rng)
		began := time.Now()
		answer, err := p.broker.Pull(t.Context(), connect.NewRequest(&brokerv1.PullRequest{
			Group: storeGroup, Topic: storeTopic, MaxMessages: 1, Wait: durationpb.New(5 * time.Second),
		}))
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Msg.Messages) != 1 {
			t.Fatalf("pulled %d messages", len(answer.Msg.Messages))
		}
		took = append(took, time.Since(began))
		_, err = p.broker.Settle(t.Context(), connect.NewRequest(&brokerv1.SettleRequest{Group: storeGroup, Topic: storeTopic, Acks: answer.Msg.Messages[0].Token}))
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(took)
	return cost{took[len(took)/2], (p.processorTime(t) - before) / time.Duration(rounds)}
}

func (p *process) publishOne(t *testing.T, rng *rand.ChaCha8) {
	t.Helper()
	payload := make([]byte, storePayload)
	_, _ = rng.Read(payload)
	copy(payload, []byte{0x0a, 0xfd, 0x01})
	_, err := p.broker.Publish(t.Context(), connect.NewRequest(&brokerv1.PublishRequest{
		Topic: storeTopic, Messages: []*brokerv1.Message{{Body: &brokerv1.Message_Payload{Payload: payload}}},
	}))
	if err != nil {
		t.Fatal(err)
	}
}
