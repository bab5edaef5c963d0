package server_test

import (
	"testing"

	"connectrpc.com/connect"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

// TestDescribeTopicTellsWhoSaysASetting: also after a restart, from what the catalogue keeps.
func TestDescribeTopicTellsWhoSaysASetting(t *testing.T) {
	h := newHarness(t)
	h.declare([]string{flightMessage}, rebookingRPC)
	for _, when := range []string{"declared", "restarted"} {
		if when == "restarted" {
			h.stop()
			h.start()
		}
		r, err := h.admin.DescribeTopic(t.Context(), connect.NewRequest(&adminv1.DescribeTopicRequest{Topic: "flights.departed"}))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, s := range r.Msg.GetSubscriptions()[0].GetSettings() {
			got[s.GetName()] = s.GetValue() + " by " + s.GetSource()
		}
		for name, want := range map[string]string{
			"filter": "msg.delay_minutes > 60 by rpc", "retry.max_attempts": "8 by service", "lease": "30s by default", "max_in_flight": "64 by rpc",
		} {
			if got[name] != want {
				t.Errorf("%s: %s is %q, should be %q", when, name, got[name], want)
			}
		}
	}
}
