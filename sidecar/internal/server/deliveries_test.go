package server_test

import (
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestEachDeliveryHasItsOwnParts: offset, attempt, token and record of a delivery belong together in every frame of a stream, in both encodings: also when other frames went before, in a
// row and with gaps, as first attempts and not.
func TestEachDeliveryHasItsOwnParts(t *testing.T) {
	for name, options := range map[string][]connect.ClientOption{"proto": nil, "json": {connect.WithProtoJSON()}} {
		t.Run(name, func(t *testing.T) {
			const total = 600
			h := newHarness(t)
			h.api = brokerv1connect.NewBrokerServiceClient(h.http, h.url, options...)
			h.declare([]string{bagsMessage}, baggageRPC)
			type place struct {
				partition uint32
				offset    int64
			}
			published := map[place]string{}
			for n := 0; n < total; n += 100 {
				var texts []string
				for i := range 100 {
					texts = append(texts, fmt.Sprintf(`{"flightId":"flight %d"}`, n+i))
				}
				for i, r := range h.publish("bags.checked", texts...) {
					published[place{r.GetPartition(), r.GetOffset()}] = fmt.Sprintf("flight %d", n+i)
				}
			}
			stream := h.consume(t, &brokerv1.ConsumeRequest_Start{Group: "baggage", Topic: "bags.checked", Credits: 50})
			defer func() { _ = stream.CloseRequest(); _ = stream.CloseResponse() }()
			attempts := map[place]uint32{}
			for done := 0; done < total; {
				s := stream.next(t)
				offsets := s.GetOffsets()
				n := 0
				for i, raw := range (broker.Slice{Records: s.GetRecords()}).Each() {
					n++
					p := place{s.GetPartition(), offsets[i]}
					attempts[p]++
					attempt := uint32(1)
					if len(s.GetAttempts()) > 0 {
						attempt = s.GetAttempts()[i]
					}
					rec, err := broker.ParseRecord(raw)
					m := new(flightsv1.BagsChecked)
					if err == nil {
						err = proto.Unmarshal(rec.Payload, m)
					}
					if err != nil || m.GetFlightId() != published[p] || attempt != attempts[p] {
						t.Fatalf("attempt %d at %v: %q as attempt %d, %v; published was %q", attempts[p], p, m.GetFlightId(), attempt, err, published[p])
					}
					outcome := ack(s.GetTokens()[i*32 : (i+1)*32])
					if again := p.offset % 3; again == 1 && attempt == 1 || again == 2 && attempt < 3 {
						outcome.Outcome = &brokerv1.Settlement_Retry_{Retry: &brokerv1.Settlement_Retry{After: durationpb.New(0)}}
					} else {
						done++
					}
					if refused := h.settle("baggage", "bags.checked", outcome); len(refused) > 0 {
						t.Fatalf("attempt %d at %v: its token is refused: %v", attempt, p, refused)
					}
				}
				if n != len(offsets) || len(s.GetTokens()) != 32*n || len(s.GetAttempts()) != 0 && len(s.GetAttempts()) != n {
					t.Fatalf("%d records in %v", n, s)
				}
			}
			if s := h.group("baggage", "bags.checked"); s.lag != 0 || len(attempts) != total {
				t.Fatalf("%d came, in the end %+v", len(attempts), s)
			}
		})
	}
}
