package sim

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/typedmq/typedmq/internal/topic"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// declaration is what the world's services would have uploaded.
func (p *Plan) declaration() broker.Declaration {
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("sim/v1/sim.proto"), Package: proto.String("sim.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"mq/v1/options.proto", "google/protobuf/empty.proto"},
	}
	d := broker.Declaration{Descriptors: &descriptorpb.FileDescriptorSet{}}
	for _, t := range p.Topics {
		file.MessageType = append(file.MessageType, t.message())
		d.Topics = append(d.Topics, "sim.v1."+t.Message)
	}
	for _, g := range p.Groups {
		file.Service = append(file.Service, g.service(p.topic(g.Topic)))
		d.Subscriptions = append(d.Subscriptions, g.RPC)
	}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		d.Descriptors.File = append(d.Descriptors.File, protodesc.ToFileDescriptorProto(f))
	}
	add(mqv1.File_mq_v1_options_proto)
	add(emptypb.File_google_protobuf_empty_proto)
	d.Descriptors.File = append(d.Descriptors.File, file)
	return d
}

// Field numbers of every message of the world.
const (
	fieldUID  = 1
	fieldKey  = 2
	fieldKind = 3
	fieldBody = 4
)

func (t *Topic) message() *descriptorpb.DescriptorProto {
	field := func(name string, n int32, typ descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{
			Name: proto.String(name), JsonName: proto.String(name), Number: proto.Int32(n), Type: typ.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
	}
	key := field("key", fieldKey, descriptorpb.FieldDescriptorProto_TYPE_STRING)
	key.Options = &descriptorpb.FieldOptions{}
	proto.SetExtension(key.Options, mqv1.E_Field, &mqv1.FieldOptions{Key: proto.Bool(true)})
	o := &mqv1.TopicOptions{Name: proto.String(t.Name), Partitions: proto.Uint32(t.Partitions), MaxMessageBytes: proto.Uint32(maxPayload)}
	switch t.Ordering {
	case PerKey:
		o.Ordering = mqv1.Ordering_ORDERING_PER_KEY.Enum()
	case PerPartition:
		o.Ordering = mqv1.Ordering_ORDERING_PER_PARTITION.Enum()
	case None:
		o.Ordering = mqv1.Ordering_ORDERING_NONE.Enum()
	}
	if !t.Queue { // a clock that is ten years ahead when a sidecar starts is taken at its word: retention deletes what is that old
		o.Retention = durationpb.New(0)
	}
	if t.Dedupe {
		o.Dedupe = &mqv1.Dedupe{}
	}
	if t.Queue {
		o.Delivery = mqv1.Delivery_DELIVERY_QUEUE.Enum()
	}
	options := &descriptorpb.MessageOptions{}
	proto.SetExtension(options, mqv1.E_Topic, o)
	return &descriptorpb.DescriptorProto{
		Name: proto.String(t.Message), Options: options,
		Field: []*descriptorpb.FieldDescriptorProto{
			field("uid", fieldUID, descriptorpb.FieldDescriptorProto_TYPE_UINT64), key,
			field("kind", fieldKind, descriptorpb.FieldDescriptorProto_TYPE_UINT64),
			field("body", fieldBody, descriptorpb.FieldDescriptorProto_TYPE_BYTES),
		},
	}
}

func (g *Group) service(t *Topic) *descriptorpb.ServiceDescriptorProto {
	o := &mqv1.SubscribeOptions{
		Retry: &mqv1.Retry{
			MaxAttempts: proto.Uint32(g.MaxAttempts), InitialInterval: durationpb.New(g.Initial), MaxInterval: durationpb.New(g.Max), Jitter: proto.Float64(g.Jitter),
		},
		Lease: durationpb.New(g.Lease), ProcessingTimeout: durationpb.New(time.Minute),
	}
	switch g.Filter {
	case BigKinds:
		o.Filter = proto.String("msg.kind > 2u")
	case OddOnes:
		o.Filter = proto.String("headers['parity'] == 'odd'")
	}
	if g.DropDead {
		o.DeadLetter = &mqv1.DeadLetter{Disabled: proto.Bool(true)}
	}
	service := &descriptorpb.ServiceOptions{}
	proto.SetExtension(service, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: proto.String(g.Name), Defaults: o})
	method := &descriptorpb.MethodOptions{}
	proto.SetExtension(method, mqv1.E_Subscribe, &mqv1.SubscribeOptions{})
	return &descriptorpb.ServiceDescriptorProto{
		Name: proto.String(fmt.Sprintf("%sG%s", t.Message, g.Name[1:])), Options: service,
		Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("On" + t.Message), InputType: proto.String(".sim.v1." + t.Message), OutputType: proto.String(".google.protobuf.Empty"), Options: method,
		}},
	}
}

// maxPayload bounds a message of the world; some are published that are larger, to be refused.
const maxPayload = 64 << 10

// largeUID is the first uid of worlds whose messages are large.
const largeUID = 1 << 20

// payload is the one encoding of the message of a uid: whatever is delivered under the uid must be these bytes.
func payload(uid uint64, key string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, fieldUID, protowire.VarintType), uid)
	if key != "" {
		b = protowire.AppendString(protowire.AppendTag(b, fieldKey, protowire.BytesType), key)
	}
	if k := kindOf(uid); k != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldKind, protowire.VarintType), k)
	}
	size := 8
	if uid >= largeUID {
		size = 2000
	}
	if h := hash64(uid, 0, "size"); h%32 == 0 {
		size = int(h>>8) % 6000 // some fill a block of the disk
	}
	body := make([]byte, 4, 4+size)
	for len(body) < size {
		body = binary.LittleEndian.AppendUint64(body, hash64(uid, len(body), "body"))
	}
	binary.LittleEndian.PutUint32(body, crc32.ChecksumIEEE(body[4:])^uint32(uid))
	return protowire.AppendBytes(protowire.AppendTag(b, fieldBody, protowire.BytesType), body)
}

// uidOf is the uid in a payload.
func uidOf(payload []byte) (uint64, bool) {
	num, typ, n := protowire.ConsumeTag(payload)
	if n < 0 || num != fieldUID || typ != protowire.VarintType {
		return 0, false
	}
	v, m := protowire.ConsumeVarint(payload[n:])
	return v, m > 0
}

// record is the encoded record of a message.
func record(uid uint64, key string, delay, ttl time.Duration) []byte {
	b := broker.NewRecord([]byte(key), payload(uid, key), []topic.HeaderValue{{Name: "parity", Value: parity(uid)}}, idOf(uid))
	number := func(field protowire.Number, d time.Duration) {
		if d > 0 {
			b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(d.Milliseconds()))
		}
	}
	const fieldDelay, fieldTTL = 6, 8
	number(fieldDelay, delay)
	number(fieldTTL, ttl)
	return b
}

func parity(uid uint64) string {
	if uid%2 == 1 {
		return "odd"
	}
	return "even"
}

// idOf is the id that a message was given, empty if none.
func idOf(uid uint64) string {
	if uid%3 == 0 {
		return fmt.Sprintf("m%d", uid)
	}
	return ""
}

// isRecord tells whether a record is that of its uid, whole and unchanged.
func isRecord(r broker.Record, uid uint64) bool {
	header, ok := r.Get("parity")
	return ok && header == parity(uid) && string(r.Payload) == string(payload(uid, string(r.Key))) && string(r.ID) == idOf(uid)
}
