package mqtest

import (
	"crypto/sha256"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// What follows is shared by all tests of a process. It is a function of descriptors alone, and to compute it for each test would be half of the time of a short one.
var (
	parsed   sync.Map // what descriptors mean, by their hash: of [sha256.Size]byte to *schema.Set
	same     sync.Map // the sets of parsed by their own descriptors: of *descriptorpb.FileDescriptorSet to *schema.Set
	fileSets sync.Map // see hook.Hooks
)

// recall adds the descriptors to a declaration that comes without them, if any test of the process has declared them: otherwise each test would send them through
// its connection.
func recall(m *brokerv1.DeclareRequest) {
	if m.GetDescriptors() != nil || len(m.GetDescriptorsHash()) != sha256.Size {
		return
	}
	if set, ok := parsed.Load([sha256.Size]byte(m.GetDescriptorsHash())); ok {
		m.Descriptors = set.(*schema.Set).Proto
	}
}

// parseOnce is schema.Parse, once for the same descriptors.
func parseOnce(fds *descriptorpb.FileDescriptorSet) (*schema.Set, error) {
	if set, ok := same.Load(fds); ok {
		return set.(*schema.Set), nil
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(fds)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(encoded)
	if set, ok := parsed.Load(hash); ok {
		return set.(*schema.Set), nil
	}
	set, err := schema.Parse(fds)
	if err != nil {
		return nil, err
	}
	first, _ := parsed.LoadOrStore(hash, set)
	set = first.(*schema.Set)
	same.Store(set.Proto, set)
	return set, nil
}
