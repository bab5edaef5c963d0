package mq

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/typedmq/typedmq/internal/partition"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// fileSet is a file with all that it imports, imports first, and the hash by which sidecars know it.
type fileSet struct {
	hash        []byte
	descriptors *descriptorpb.FileDescriptorSet
}

func newFileSet(root protoreflect.FileDescriptor) (*fileSet, error) {
	set := &descriptorpb.FileDescriptorSet{}
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor) error
	add = func(file protoreflect.FileDescriptor) error {
		if seen[file.Path()] {
			return nil
		}
		seen[file.Path()] = true
		if file.IsPlaceholder() {
			return badDescriptors("the descriptor of %s, which %s imports, is not linked into this program", file.Path(), root.Path())
		}
		for i := range file.Imports().Len() {
			if err := add(file.Imports().Get(i).FileDescriptor); err != nil {
				return err
			}
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
		return nil
	}
	if err := add(root); err != nil {
		return nil, err
	}
	encoding, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		return nil, badDescriptors("the descriptors of %s do not encode: %v", root.Path(), err)
	}
	hash := sha256.Sum256(encoding)
	return &fileSet{hash: hash[:], descriptors: set}, nil
}

// fileSet is newFileSet, once for a file if the results are to be kept.
func (c *Client) fileSet(root protoreflect.FileDescriptor) (*fileSet, error) {
	if c.hooks.FileSets == nil {
		return newFileSet(root)
	}
	if set, ok := c.hooks.FileSets.Load(root); ok {
		return set.(*fileSet), nil
	}
	set, err := newFileSet(root)
	if err != nil {
		return nil, err
	}
	c.hooks.FileSets.Store(root, set)
	return set, nil
}

func badDescriptors(format string, args ...any) error {
	return &Error{Code: connect.CodeInvalidArgument, Reason: "BAD_DESCRIPTORS", Message: fmt.Sprintf(format, args...)}
}

// declare registers topics and subscriptions once. The descriptors travel only if the sidecar has not seen them.
func (c *Client) declare(ctx context.Context, files *fileSet, topics, subscriptions []string) (*brokerv1.DeclareResponse, error) {
	request := &brokerv1.DeclareRequest{DescriptorsHash: files.hash, Topics: topics, Subscriptions: subscriptions}
	response, err := c.broker.Declare(ctx, connect.NewRequest(request))
	if err == nil && response.Msg.GetNeedDescriptors() {
		request.Descriptors = files.descriptors
		response, err = c.broker.Declare(ctx, connect.NewRequest(request))
	}
	if err != nil {
		return nil, fromCall(err)
	}
	if response.Msg.GetNeedDescriptors() {
		return nil, &Error{Code: connect.CodeInternal, Reason: "BAD_ANSWER", Message: "the sidecar asks for descriptors that it was sent"}
	}
	return response.Msg, nil
}

type topicKey struct {
	name    string
	message protoreflect.FullName
}

// topic is what a client knows of a topic that it publishes to. That of a publisher whose messages go elsewhere has name and message alone.
type topic struct {
	name       string
	message    protoreflect.FullName
	descriptor protoreflect.MessageDescriptor

	client   *Client // whose topic it is; nil if nobody's
	files    func() (*fileSet, error)
	turn     chan struct{} // holds a token while somebody declares the topic for the first time
	maxBytes atomic.Int64  // largest payload; 0 until the topic is declared
	levels   atomic.Int64  // of priority; 0 if the sidecar does not say

	partitions atomic.Uint32 // as first declared, 1 if that did not say; 0 until then
}

// partition is that of a key in the topic, 0 if it has none or the partitions are not known. It stays the same, whatever is declared.
func (t *topic) partition(key []byte) uint32 {
	n := t.partitions.Load()
	if n < 2 || len(key) == 0 {
		return 0
	}
	return partition.Of(key, n)
}

func newTopicState(c *Client, name string, message protoreflect.MessageDescriptor) *topic {
	return &topic{
		name:       name,
		message:    message.FullName(),
		descriptor: message,
		client:     c,
		files:      sync.OnceValues(func() (*fileSet, error) { return c.fileSet(message.ParentFile()) }),
		turn:       make(chan struct{}, 1),
	}
}

// defaultMaxMessageBytes is assumed of a sidecar that states no limit.
const defaultMaxMessageBytes = 1 << 20

// ensureDeclared returns once the topic is declared. Callers wait for one another, so that one of them declares; it
// retries while the sidecar is away, until its ctx is done. A refusal is returned and the next call tries again.
func (c *Client) ensureDeclared(ctx context.Context, t *topic) error {
	if t.maxBytes.Load() > 0 {
		return nil
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return ErrClosed
	}
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	var pause backoff
	for t.maxBytes.Load() == 0 {
		err := c.declareTopic(either, t)
		if err == nil {
			break
		}
		if either.Err() == nil && !transient(err) {
			return err
		}
		if !pause.wait(either) {
			if c.ctx.Err() != nil {
				return ErrClosed
			}
			return fmt.Errorf("%w (the last attempt to declare the topic: %v)", ctx.Err(), err)
		}
	}
	return nil
}

// declareTopic declares the topic once and notes its limits.
func (c *Client) declareTopic(ctx context.Context, t *topic) error {
	files, err := t.files()
	if err != nil {
		return err
	}
	response, err := c.declare(ctx, files, []string{string(t.message)}, nil)
	if err != nil {
		return err
	}
	limit, partitions := int64(defaultMaxMessageBytes), uint32(1)
	i := slices.IndexFunc(response.GetTopics(), func(d *brokerv1.DeclaredTopic) bool { return d.GetMessage() == string(t.message) })
	if i >= 0 {
		declared := response.GetTopics()[i]
		if declared.GetName() != t.name {
			return &Error{Code: connect.CodeFailedPrecondition, Reason: "TOPIC_INCOMPATIBLE", Field: "name", Message: fmt.Sprintf(
				"message %s is annotated as topic %q, the generated code publishes to %q: generate it again",
				t.message, declared.GetName(), t.name)}
		}
		if n := declared.GetMaxMessageBytes(); n > 0 {
			limit = int64(n)
		}
		t.levels.Store(int64(declared.GetPriorityLevels()))
		partitions = max(partitions, declared.GetPartitions())
	}
	t.partitions.CompareAndSwap(0, partitions)
	t.maxBytes.Store(limit)
	return nil
}
