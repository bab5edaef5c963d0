package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/typedmq/typedmq/examples/internal/child"
)

// sidecar is the sidecar of a demo.
type sidecar struct{ child.Sidecar }

func newSidecar(mq, dir string) sidecar { return sidecar{child.NewSidecar(mq, dir)} }

// deadLetters returns the flights that a service gave up on.
func (s sidecar) deadLetters(ctx context.Context, of service) ([]string, error) {
	var answer struct {
		DeadLetters []struct {
			JSON struct {
				FlightID string `json:"flightId"`
			} `json:"json"`
		} `json:"deadLetters"`
	}
	if err := s.Ask(ctx, &answer, "dlq", "list", of.name, of.topic); err != nil {
		return nil, err
	}
	var flights []string
	for _, d := range answer.DeadLetters {
		flights = append(flights, d.JSON.FlightID)
	}
	return flights, nil
}

// redrive gives all dead letters of a service back to it, and returns how many they were.
func (s sidecar) redrive(ctx context.Context, of service) (int, error) {
	var answer struct {
		Redriven int `json:"redriven,string"`
	}
	err := s.Ask(ctx, &answer, "dlq", "redrive", of.name, of.topic, "--all")
	return answer.Redriven, err
}

// unsettled says what is not settled for a group, empty if everything is.
func (s sidecar) unsettled(ctx context.Context) (string, error) {
	var answer struct {
		Groups []struct {
			Group      string `json:"group"`
			Partitions []struct {
				Lag         int64  `json:"lag,string"`
				DeadLetters int64  `json:"deadLetters,string"`
				Fault       string `json:"fault"`
			} `json:"partitions"`
		} `json:"groups"`
	}
	if err := s.Ask(ctx, &answer, "groups"); err != nil {
		return "", err
	}
	var left []string
	for _, g := range answer.Groups {
		var lag, dead int64
		for _, p := range g.Partitions {
			lag += p.Lag
			dead += p.DeadLetters
			if p.Fault != "" {
				left = append(left, g.Group+": "+p.Fault)
			}
		}
		if lag > 0 || dead > 0 {
			left = append(left, g.Group+" has a lag of "+strconv.FormatInt(lag, 10)+" and "+strconv.FormatInt(dead, 10)+" dead letters")
		}
	}
	return strings.Join(left, "; "), nil
}
