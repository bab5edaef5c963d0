package mqtest

import (
	"crypto/sha256"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// parsed holds what descriptors mean, by their hash. It is shared by all tests of a process, since parsing is a third of the time of a short one, and it is
// a function of the descriptors alone.
var parsed sync.Map // of [sha256.Size]byte to *schema.Set

// parseOnce is schema.Parse, once for the same descriptors.
func parseOnce(fds *descriptorpb.FileDescriptorSet) (*schema.Set, error) {
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
	parsed.Store(hash, set)
	return set, nil
}
