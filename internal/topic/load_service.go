package topic

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// Field numbers of ConsumerOptions, PublishOptions and SubscribeOptions, for places.
const (
	consumerGroup    = 1
	consumerDefaults = 2

	publishDelay = 1
	publishTTL   = 2

	subscribeFilter      = 1
	subscribeRetry       = 2
	subscribeDeadLetter  = 3
	subscribeMaxInFlight = 4
	subscribeTimeout     = 5
	subscribeLease       = 6
	subscribeBatch       = 7
	subscribeHandler     = 9

	subscribeDeadLetterExpired = 10
)

func publisherPlace(s protoreflect.ServiceDescriptor) place {
	return optionOf(s, serviceOptions, mqv1.E_Publisher.TypeDescriptor().Number())
}

func consumerPlace(s protoreflect.ServiceDescriptor) place {
	return optionOf(s, serviceOptions, mqv1.E_Consumer.TypeDescriptor().Number())
}

func publishPlace(m protoreflect.MethodDescriptor) place {
	return optionOf(m, methodOptions, mqv1.E_Publish.TypeDescriptor().Number())
}

func subscribePlace(m protoreflect.MethodDescriptor) place {
	return optionOf(m, methodOptions, mqv1.E_Subscribe.TypeDescriptor().Number())
}

func (l *loader) services(services protoreflect.ServiceDescriptors) {
	for i := range services.Len() {
		s := services.Get(i)
		publisher, err := l.options.publisher(s)
		l.known(publisherPlace(s), "(mq.v1.publisher)", s, err)
		consumer, err := l.options.consumer(s)
		l.known(consumerPlace(s), "(mq.v1.consumer)", s, err)
		if publisher != nil && consumer != nil {
			l.add(consumerPlace(s), BadService, "service %s is a publisher and a consumer; make two services of it", s.Name())
			continue
		}
		l.strayOptions(s, publisher != nil, consumer != nil)
		switch {
		case publisher != nil:
			l.publisher(s)
		case consumer != nil:
			l.consumer(s, consumer)
		}
	}
}

func (l *loader) known(p place, option string, d protoreflect.Descriptor, err error) {
	if err != nil {
		l.add(p, BadOptions, "%s of %s: %v; use the typedmq that the file was written for", option, d.Name(), err)
	}
}

// strayOptions finds options of rpcs that do not fit the role of the service.
func (l *loader) strayOptions(s protoreflect.ServiceDescriptor, publishes, consumes bool) {
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		publish, err := l.options.publish(m)
		l.known(publishPlace(m), "(mq.v1.publish)", m, err)
		subscribe, err := l.options.subscribe(m)
		l.known(subscribePlace(m), "(mq.v1.subscribe)", m, err)
		if publish != nil && !publishes {
			l.add(publishPlace(m), BadService, "rpc %s has (mq.v1.publish), but service %s is no publisher; add option (mq.v1.publisher) = {} to "+
				"the service or remove it", m.Name(), s.Name())
		}
		if subscribe != nil && !consumes {
			l.add(subscribePlace(m), BadService, "rpc %s has (mq.v1.subscribe), but service %s is no consumer; add option (mq.v1.consumer) = "+
				"{group: \"…\"} to the service or remove it", m.Name(), s.Name())
		}
	}
}

func (l *loader) publisher(s protoreflect.ServiceDescriptor) {
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		t, reply := l.rpc(m, "publishes")
		o, _ := l.options.publish(m)
		p := publishPlace(m)
		publication := &Publication{
			RPC:   rpcName(m),
			Topic: t,
			Delay: l.duration(p.at(publishDelay), "delay", o.GetDelay(), 0, limits{0, MaxDelay, BadDelay}),
			TTL:   l.duration(p.at(publishTTL), "ttl", o.GetTtl(), 0, limits{MinTTL, MaxTTL, BadTTL}),
			Reply: reply,
		}
		if reply != nil && o.GetDelay() != nil {
			l.add(p.at(publishDelay), Contradiction, "rpc %s returns %s, so somebody waits for it, and has a delay; remove the delay", m.Name(), reply.FullName())
		}
		if reply != nil && o.GetTtl() != nil {
			l.add(p.at(publishTTL), Contradiction, "rpc %s returns %s, so it expires with its caller's deadline, and has a ttl; remove the ttl", m.Name(), reply.FullName())
		}
		if t != nil {
			l.publications = append(l.publications, publication)
		}
	}
}

func (l *loader) consumer(s protoreflect.ServiceDescriptor, o *mqv1.ConsumerOptions) {
	group := o.GetGroup()
	if group == "" {
		l.add(consumerPlace(s).at(consumerGroup), BadName, "consumer %s has no group; set group: \"…\"", s.Name())
	} else if err := CheckName(group); err != nil {
		l.add(consumerPlace(s).at(consumerGroup), BadName, "group %v; set another group", err)
		group = ""
	}
	defaults := policy{consumerPlace(s).at(consumerDefaults), o.GetDefaults()}
	l.checkPolicy(defaults)
	l.checkRetry(defaults.place, defaults.options.GetRetry())
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		t, reply := l.rpc(m, "handles")
		options, _ := l.options.subscribe(m)
		own := policy{subscribePlace(m), options}
		l.checkPolicy(own)
		merged := merged(own, defaults)
		if own.options.GetRetry() != nil {
			l.checkRetry(own.place, merged.GetRetry())
		}
		if t == nil {
			continue
		}
		sub := subscription(merged)
		sub.RPC, sub.Group, sub.Topic, sub.Reply = rpcName(m), group, t, reply
		l.checkAgainstTopic(sub, m, own, defaults)
		l.subscriptions = append(l.subscriptions, subscribed{sub, m, levels{own, defaults}})
	}
}

// rpc checks the signature of an rpc and returns the topic of its request, and the message that answers it, if it is a call.
func (l *loader) rpc(m protoreflect.MethodDescriptor, verb string) (t *Topic, reply protoreflect.MessageDescriptor) {
	p := place{element: m}
	if m.IsStreamingClient() || m.IsStreamingServer() {
		l.add(p, BadRPC, "rpc %s is streaming; write it without stream: it %s one message at a time", m.Name(), verb)
	}
	t = l.topicOf(m.Input())
	if t == nil && !l.hasFault(m.Input()) {
		instead := "add option (mq.v1.topic) = {} to the message"
		if m.Input().FullName().Parent() == "google.protobuf" {
			instead = "write a message of your own with option (mq.v1.topic) = {}"
		}
		l.add(p, NotATopic, "rpc %s %s %s, which is no topic; %s", m.Name(), verb, m.Input().FullName(), instead)
	}
	if m.Output().FullName() == "google.protobuf.Empty" {
		return t, nil
	}
	if t != nil && t.Delivery != Queue {
		l.add(p, BadRPC, "rpc %s returns %s, so it is a call, which one group answers; make topic %q DELIVERY_QUEUE, or write returns (google.protobuf.Empty)",
			m.Name(), m.Output().FullName(), t.Name)
	}
	return t, m.Output()
}

// hasFault tells whether the annotation of m was there and could not be read.
func (l *loader) hasFault(m protoreflect.MessageDescriptor) bool {
	_, err := l.options.topic(m)
	return l.annotated(m.ParentFile()) && err != nil
}

// rpcName is "package.Service/Method".
func rpcName(m protoreflect.MethodDescriptor) string {
	return string(m.Parent().FullName()) + "/" + string(m.Name())
}

// overlay sets in to what from sets, message by message. Durations are replaced as a whole, enums that are unspecified set nothing.
func overlay(to, from protoreflect.Message) {
	if !from.IsValid() {
		return
	}
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Enum() != nil && v.Enum() == 0:
		case f.Message() != nil && f.Message().ParentFile() == f.ParentFile():
			overlay(to.Mutable(f).Message(), v.Message())
		case f.Message() != nil:
			to.Set(f, protoreflect.ValueOfMessage(proto.Clone(v.Message().Interface()).ProtoReflect()))
		default:
			to.Set(f, v)
		}
		return true
	})
}
