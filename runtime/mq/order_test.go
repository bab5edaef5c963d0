package mq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// What is refused for one record is sent again in parts. None is stored before one that was queued earlier, which may be refused or put off itself.
func TestPartsOfARefusedBatchKeepTheirOrder(t *testing.T) {
	for name, putOff := range map[string]string{"refused": "", "put off": "COORDINATOR_UNAVAILABLE", "undeclared": "TOPIC_UNKNOWN"} {
		code := connect.CodeUnavailable
		if name == "undeclared" {
			code = connect.CodeNotFound
		}
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				hold := make(chan struct{})
				var stored []string
				b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
					<-hold
					answer := &brokerv1.PublishStreamResponse{Sequence: r.GetSequence()}
					for _, batch := range r.GetBatches() {
						values := payloads(&brokerv1.PublishStreamRequest{Batches: []*brokerv1.TopicRecords{batch}})
						result := &brokerv1.BatchResult{}
						switch {
						case slices.ContainsFunc(values, func(v string) bool { return strings.HasPrefix(v, "bad") }):
							result.Refusal = refusalOf(connect.CodeInvalidArgument, "SCHEMA_MISMATCH")
						case putOff != "" && values[0] == "0" && len(values) < 16:
							result.Refusal = refusalOf(code, putOff)
							putOff = ""
						default:
							for _, v := range values {
								result.Partitions = append(result.Partitions, 0)
								result.Offsets = append(result.Offsets, int64(len(stored)))
								stored = append(stored, v)
							}
						}
						answer.Results = append(answer.Results, result)
					}
					return answer, nil
				}
				p := NewPublisher(c, stringTopic)
				all := []*Pending{keyed(t, p, "k", "before")}
				synctest.Wait()
				want := []string{"before"}
				for i := range 16 {
					value := fmt.Sprint(i)
					if name == "refused" && i == 3 || i == 13 {
						value = "bad " + value
					} else {
						want = append(want, value)
					}
					all = append(all, keyed(t, p, "k", value))
				}
				close(hold)
				for _, one := range all {
					if _, err := one.Wait(context.Background()); err != nil && !errors.Is(err, ErrSchemaMismatch) {
						t.Error(err)
					}
				}
				expect(t, "stored", stored, want...)
				if putOff != "" {
					t.Error("nothing was put off")
				}
			})
		})
	}
}

// Records of a key do not change their lane within an era, whatever later declarations say.
func TestPartitionsStayAsFirstDeclared(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		partitions := uint32(0)
		b.declare = func(r *brokerv1.DeclareRequest) (*brokerv1.DeclareResponse, error) {
			if len(r.GetTopics()) == 0 {
				return nil, nil
			}
			return &brokerv1.DeclareResponse{Topics: []*brokerv1.DeclaredTopic{{
				Message: r.GetTopics()[0], Name: "strings", Partitions: partitions, MaxMessageBytes: 1 << 20}}}, nil
		}
		p := NewPublisher(c, stringTopic)
		if _, err := keyed(t, p, "some key", "a").Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		partitions = 1000
		if err := c.declareTopic(t.Context(), p.topic); err != nil {
			t.Fatal(err)
		}
		if n := p.topic.partition([]byte("some key")); n != 0 {
			t.Errorf("the key was in partition 0 of those that are known, now it is in %d", n)
		}
	})
}
