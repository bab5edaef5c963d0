package broker

import "github.com/typedmq/typedmq/internal/topic"

// AlterTopic gives tests a topic that cannot be declared: change edits a copy of what was.
func (b *Broker) AlterTopic(name string, change func(*topic.Topic)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := *b.mu.topics[name]
	decl := *t.decl
	change(&decl)
	t.decl = &decl
	b.mu.topics[name] = &t
}
