package schema

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// withFile returns a set of file and all it imports.
func withFile(root protoreflect.FileDescriptor, extra ...*descriptorpb.FileDescriptorProto) *descriptorpb.FileDescriptorSet {
	out := &descriptorpb.FileDescriptorSet{}
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
		out.File = append(out.File, protodesc.ToFileDescriptorProto(f))
	}
	add(root)
	out.File = append(out.File, extra...)
	return out
}

// topicFile declares topic "t" of message x.T.
func topicFile(t *testing.T) *descriptorpb.FileDescriptorSet {
	t.Helper()
	opts := &descriptorpb.MessageOptions{}
	proto.SetExtension(opts, mqv1.E_Topic, &mqv1.TopicOptions{Name: proto.String("t")})
	secret := &descriptorpb.FieldOptions{}
	proto.SetExtension(secret, mqv1.E_Field, &mqv1.FieldOptions{Sensitive: proto.Bool(true)})
	str, msg, i32 := descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_TYPE_INT32
	one, many := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	f := &descriptorpb.FileDescriptorProto{
		Name: proto.String("x/x.proto"), Package: proto.String("x"), Syntax: proto.String("proto3"),
		Dependency: []string{"mq/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("T"), Options: opts,
			Field: []*descriptorpb.FieldDescriptorProto{
				{Name: proto.String("name"), JsonName: proto.String("name"), Number: proto.Int32(1), Type: &str, Label: &one},
				{Name: proto.String("child"), JsonName: proto.String("child"), Number: proto.Int32(2), Type: &msg, TypeName: proto.String(".x.T"), Label: &one},
				{Name: proto.String("counts"), JsonName: proto.String("counts"), Number: proto.Int32(3), Type: &i32, Label: &many},
				{Name: proto.String("pin"), JsonName: proto.String("pin"), Number: proto.Int32(4), Type: &str, Label: &one, Options: secret},
			},
		}},
	}
	return withFile(mqv1.File_mq_v1_options_proto, f)
}

func parse(t *testing.T) (*Set, *Codec) {
	t.Helper()
	set, err := Parse(topicFile(t))
	if err != nil {
		t.Fatal(err)
	}
	top, ok := set.Topic("x.T")
	if !ok || top.Name != "t" {
		t.Fatalf("topic of x.T: %+v", top)
	}
	return set, set.Codec(top)
}

func TestParseRefuses(t *testing.T) {
	file := func(name, pkg string, imports ...string) *descriptorpb.FileDescriptorProto {
		return &descriptorpb.FileDescriptorProto{Name: &name, Package: &pkg, Dependency: imports, Syntax: proto.String("proto3")}
	}
	withMessage := func(f *descriptorpb.FileDescriptorProto, name string) *descriptorpb.FileDescriptorProto {
		f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: &name})
		return f
	}
	set := func(files ...*descriptorpb.FileDescriptorProto) *descriptorpb.FileDescriptorSet {
		return &descriptorpb.FileDescriptorSet{File: files}
	}
	large := withMessage(file("l.proto", "l"), "M")
	for range 5000 {
		name := strings.Repeat("m", 1000)
		large.MessageType = append(large.MessageType, &descriptorpb.DescriptorProto{Name: &name})
	}
	for _, c := range []struct {
		name, reason string
		in           *descriptorpb.FileDescriptorSet
	}{
		{"cycle", Cycle, set(file("a.proto", "a", "b.proto"), file("b.proto", "b", "a.proto"))},
		{"itself", Cycle, set(file("a.proto", "a", "a.proto"))},
		{"missing import", MissingImport, set(file("a.proto", "a", "b.proto"))},
		{"same file twice", Duplicate, set(file("a.proto", "a"), file("a.proto", "a"))},
		{"same symbol twice", Duplicate, set(withMessage(file("a.proto", "a"), "M"), withMessage(file("b.proto", "a"), "M"))},
		{"google.protobuf", Reserved, set(withMessage(file("mine.proto", "google.protobuf"), "Empty"))},
		{"too large", TooLarge, set(large)},
		{"bad name", Invalid, set(withMessage(file("a.proto", "a"), "not a name"))},
	} {
		_, err := Parse(c.in)
		var e *Error
		if !errors.As(err, &e) || e.Reason != c.reason {
			t.Errorf("%s: got %v, want reason %s", c.name, err, c.reason)
		}
	}
}

func TestOwnFilesReplaceUploadedOnes(t *testing.T) {
	in := topicFile(t)
	for _, f := range in.File {
		if f.GetName() == "google/protobuf/duration.proto" {
			f.MessageType[0].Field = nil
		}
	}
	if _, err := Parse(in); err != nil {
		t.Fatal(err)
	}
}

func TestJSON(t *testing.T) {
	_, c := parse(t)
	in := func(text string) *structpb.Struct {
		s := new(structpb.Struct)
		if err := protojson.Unmarshal([]byte(text), s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	m, err := c.FromJSON(in(`{"name":"n","child":{"name":"c","pin":"1"},"counts":[1,2],"pin":"1234"}`))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(payload); err != nil {
		t.Fatal(err)
	}
	out, err := c.ToJSON(payload)
	if err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "1234") || out.Fields["name"].GetStringValue() != "n" || out.Fields["child"].GetStructValue().Fields["pin"].GetStringValue() != "" {
		t.Fatalf("shown as %s", text)
	}
	for _, bad := range []string{`{"nme":"n"}`, `{"counts":[9223372036854775808]}`, `{"counts":"NaN"}`, `{"name":3}`} {
		if _, err := c.FromJSON(in(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestNumbersKeepTheirDigits: a JSON number is a double on its way here.
func TestNumbersKeepTheirDigits(t *testing.T) {
	file := descriptorpb.FileDescriptorProto{
		Name: proto.String("n.proto"), Package: proto.String("n"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("N"), Field: []*descriptorpb.FieldDescriptorProto{
			{Name: proto.String("big_number"), JsonName: proto.String("bigNumber"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_INT64.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()},
		}}},
	}
	fd, err := protodesc.NewFile(&file, nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, ok := range map[string]bool{
		`{"bigNumber":[1,9007199254740991]}`: true, `{"bigNumber":["9007199254740993"]}`: true,
		`{"bigNumber":[9007199254740993]}`: false, `{"big_number":[9007199254740992]}`: false, `{"bigNumber":[-9007199254740993]}`: false,
	} {
		in := new(structpb.Struct)
		if err := protojson.Unmarshal([]byte(text), in); err != nil {
			t.Fatal(err)
		}
		if err := checkNumbers(fd.Messages().Get(0), in); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestProtoText(t *testing.T) {
	_, c := parse(t)
	text, err := c.ProtoText()
	if err != nil || !strings.Contains(text, "message T {") || !strings.Contains(text, "(mq.v1.topic)") {
		t.Fatalf("%v\n%s", err, text)
	}
}

// TestValidateAgreesWithDecode: what Validate takes, Decode takes; what it refuses and Decode takes has a field of another wire type.
func TestValidateAgreesWithDecode(t *testing.T) {
	_, c := parse(t)
	nest := func(depth int) []byte {
		var b []byte
		for range depth {
			b = append(protowire.AppendTag(nil, 2, protowire.BytesType), protowire.AppendBytes(nil, b)...)
		}
		return b
	}
	if err := c.Validate(nest(99)); err != nil {
		t.Error(err)
	}
	if err := c.Validate(nest(101)); err == nil {
		t.Error("101 levels were taken")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	m, _ := c.FromJSON(&structpb.Struct{Fields: map[string]*structpb.Value{
		"name": structpb.NewStringValue("näme"), "counts": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(300)}}),
		"child": structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"name": structpb.NewStringValue("c")}}),
	}})
	good, _ := Marshal(m)
	refused := 0
	for range 20_000 {
		b := bytes.Clone(good)
		for range 1 + rng.IntN(2) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		_, decodes := c.Decode(b)
		err := c.Validate(b)
		if err == nil && decodes != nil {
			t.Fatalf("%x is valid but does not decode: %v", b, decodes)
		}
		if err != nil {
			refused++
			if decodes == nil && !strings.Contains(err.Error(), "wire type") {
				t.Fatalf("%x decodes but is refused: %v", b, err)
			}
		}
	}
	if refused < 1000 {
		t.Fatalf("only %d of 20000 were refused", refused)
	}
}

func BenchmarkValidate(b *testing.B) {
	f := &adminv1.Topic{Name: "flights", Message: "air.v1.Flight", Delivery: "pubsub", Ordering: "per_key", Partitions: 16, MaxMessageBytes: 1 << 20}
	payload, _ := proto.Marshal(f)
	p := newPlan(f.ProtoReflect().Descriptor())
	b.ReportAllocs()
	for b.Loop() {
		if err := p.check(payload, MaxDepth); err != nil {
			b.Fatal(err)
		}
	}
}

// TestStoredDescriptorsOutliveNewRules: a store that took a contradiction before there was a rule against it still opens.
func TestStoredDescriptorsOutliveNewRules(t *testing.T) {
	fds := topicFile(t)
	for _, f := range fds.GetFile() {
		for _, m := range f.GetMessageType() {
			if m.GetName() == "T" {
				o := proto.GetExtension(m.GetOptions(), mqv1.E_Topic).(*mqv1.TopicOptions)
				o.Delivery, o.RetentionBytes = mqv1.Delivery_DELIVERY_QUEUE.Enum(), proto.Uint64(1)
				proto.SetExtension(m.Options, mqv1.E_Topic, o)
			}
		}
	}
	if _, err := Parse(fds); err == nil {
		t.Fatal("a queue with retention_bytes is accepted")
	}
	set, err := ParseStored(fds)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := set.Topic("x.T"); !ok {
		t.Fatal("its topic is gone")
	}
}
