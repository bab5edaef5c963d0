package broker

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/typedmq/typedmq/internal/topic"
	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Pause lets a group stop or go on in a topic, or in all of its topics if topicName is empty. It is durable, and in effect when it returns:
// in a paused group nothing is leased to anybody. What was leased can be settled, waits go on, and publishing is not concerned. A group that was
// paused in all of its topics is paused in those that it declares later too, until it goes on in any. It returns the topics concerned, by name, those included where nothing changed.
// Errors: *Error of reason TopicUnknown, GroupUnknown, or that of a commit, after which the call may be repeated.
func (b *Broker) Pause(ctx context.Context, groupName, topicName string, paused bool) (topics []string, err error) {
	if topicName != "" {
		g, refused := b.group(groupName, topicName)
		if refused != nil {
			return nil, refused
		}
		topicName = g.topicName()
	} else if err := topic.CheckName(groupName); err != nil {
		return nil, badName("group", err)
	}
	topics, err = b.markPaused(ctx, groupName, topicName, paused)
	if err != nil {
		return nil, Refusal(err)
	}
	if len(topics) == 0 {
		return nil, fail(GroupUnknown, "group", "group %q is unknown", clip(groupName)).with("group", clip(groupName))
	}
	for _, g := range b.groupsBy(groupName, topicName) {
		// A shard that does not serve leases nothing, and looks at the mark when it does again.
		if _, err := g.onAll(ctx, func(*serving) {}); ctx.Err() != nil {
			return nil, Refusal(err)
		}
	}
	return topics, nil
}

// markPaused writes the mark into the catalogue and lets it take effect with what each shard does next.
func (b *Broker) markPaused(ctx context.Context, groupName, topicName string, paused bool) (topics []string, err error) {
	c := b.catalogue
	c.mu.Lock()
	defer c.mu.Unlock()
	again, err := c.freshLocked(ctx)
	if err == nil && again {
		err = b.takeEffectLocked(c.allLocked())
	}
	if err != nil {
		return nil, err
	}
	var (
		changed []*storagev1.Subscription
		writes  []engine.Write
	)
	for _, key := range slices.SortedFunc(maps.Keys(c.mu.subscriptions), compareGroups) {
		if key.group != groupName || topicName != "" && key.topic != topicName {
			continue
		}
		topics = append(topics, key.topic)
		if c.mu.subscriptions[key].GetPaused() == paused {
			continue
		}
		entry := proto.CloneOf(c.mu.subscriptions[key])
		entry.Paused = paused
		w, err := writeProto(keySubscription+key.group+"/"+key.topic, entry)
		if err != nil {
			return nil, err
		}
		changed, writes = append(changed, entry), append(writes, w)
	}
	whole := c.mu.paused[groupName]
	if len(topics) > 0 && (topicName == "" || !paused) { // a group that goes on in one topic is not paused as a whole any more
		whole = paused
	}
	if whole != c.mu.paused[groupName] {
		writes = append(writes, engine.Write{Key: []byte(keyPaused + groupName), Value: []byte{1}, Delete: !whole})
	}
	if len(writes) == 0 {
		return topics, nil
	}
	if err := c.commitLocked(ctx, writes); err != nil {
		return nil, err
	}
	if whole {
		c.mu.paused[groupName] = true
	} else {
		delete(c.mu.paused, groupName)
	}
	for _, entry := range changed {
		c.mu.subscriptions[groupKey{entry.GetGroup(), entry.GetTopic()}] = entry
	}
	return topics, b.takeEffectLocked(contents{subscriptions: changed})
}
