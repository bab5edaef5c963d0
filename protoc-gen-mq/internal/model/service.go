package model

import (
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/typedmq/typedmq/internal/topic"
)

// service adds what a service becomes, which is nothing for a service without a role and for one without rpcs.
func (b *builder) service(f *fileBuilder, s *protogen.Service) {
	publisher := &Publisher{
		Service:     string(s.Desc.FullName()),
		Interface:   s.GoName + "Publisher",
		Constructor: "New" + s.GoName + "Publisher",
		Struct:      unexported(s.GoName) + "Publisher",
		Comment:     s.Comments.Leading,
		Deprecated:  s.Desc.Options().(*descriptorpb.ServiceOptions).GetDeprecated(),
	}
	consumer := &Consumer{
		Service:    publisher.Service,
		Interface:  s.GoName + "Consumer",
		Register:   "Register" + s.GoName + "Consumer",
		Comment:    publisher.Comment,
		Deprecated: publisher.Deprecated,
	}
	methods := map[string]*protogen.Method{}
	for _, m := range s.Methods {
		rpc := string(s.Desc.FullName()) + "/" + string(m.Desc.Name())
		publication, subscription := b.publications[rpc], b.subscriptions[rpc]
		if publication == nil && subscription == nil {
			continue
		}
		if first := methods[m.GoName]; first != nil {
			b.faults = append(b.faults, topic.At(m.Desc, badGoName, "rpc %s becomes %s in Go, as rpc %s does; rename one of the two",
				m.Desc.Name(), m.GoName, first.Desc.Name()))
			continue
		}
		methods[m.GoName] = m
		deprecated := m.Desc.Options().(*descriptorpb.MethodOptions).GetDeprecated()
		if publication != nil {
			t := b.reference(f, publication.Topic)
			if t.Func == "" {
				t = b.definition(f, publication.Topic)
			}
			publisher.Methods = append(publisher.Methods, PublisherMethod{
				Name: m.GoName, Field: unexported(m.GoName), New: "New" + s.GoName + m.GoName, Comment: m.Comments.Leading, Deprecated: deprecated, Topic: t,
				Delay: publication.Delay, TTL: publication.TTL, Reply: b.reply(f, publication.Reply),
			})
			if publication.Delay > 0 || publication.TTL > 0 {
				f.imports.standard("time", timePath)
			}
			continue
		}
		consumer.Group = subscription.Group
		consumer.Methods = append(consumer.Methods, ConsumerMethod{
			Name: m.GoName, RPC: rpc, Comment: m.Comments.Leading, Deprecated: deprecated, Topic: b.reference(f, subscription.Topic),
			Style: style(subscription), Reply: b.reply(f, subscription.Reply),
		})
	}
	if len(publisher.Methods) > 0 {
		f.imports.standard("context", contextPath)
		faults := len(b.faults)
		b.declare(f, publisher.Interface, s.Desc)
		b.declare(f, publisher.Constructor, s.Desc)
		b.declare(f, publisher.Struct, s.Desc)
		for _, m := range publisher.Methods {
			if m.Reply == "" && len(b.faults) == faults { // else the service is to be renamed first, and its rpcs' names change with it
				b.declare(f, m.New, methods[m.Name].Desc)
			}
		}
		f.out.Publishers = append(f.out.Publishers, publisher)
	}
	if len(consumer.Methods) > 0 {
		f.imports.standard("context", contextPath)
		b.declare(f, consumer.Interface, s.Desc)
		b.declare(f, consumer.Register, s.Desc)
		consumer.Descriptor = f.imports.qualify(f.source.GoPackageName, f.source.GoDescriptorIdent)
		f.out.Consumers = append(f.out.Consumers, consumer)
	}
}

// reply is the Go type of a message that answers, if there is one.
func (b *builder) reply(f *fileBuilder, d protoreflect.MessageDescriptor) string {
	if d == nil {
		return ""
	}
	m := b.messages[d.FullName()]
	return f.imports.qualify(m.file.GoPackageName, m.GoIdent)
}

func style(s *topic.Subscription) Style {
	switch {
	case s.Reply != nil:
		return Call
	case s.Batch != nil:
		return Batch
	case s.Handler == topic.HandlerDelivery:
		return Delivery
	}
	return Simple
}
