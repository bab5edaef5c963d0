package main

import "fmt"

// limit is what must hold on the machine that this project measures itself by: 2 cores, bodies of 256 bytes, 10,000 keys, medians of 5, client and sidecar both on it.
type limit struct {
	bound float64
	most  bool // it is the most that the result may be, not the least
	ratio bool // it is of the result's ratio, not of its median
}

var limits = map[string]limit{
	"publish":                 {bound: 500_000},
	"plain":                   {bound: 60_000},
	"queue":                   {bound: 250_000},
	"pubsub":                  {bound: 500_000},
	"latency-20k p50":         {bound: 1.5, most: true},
	"latency-20k p99":         {bound: 5, most: true},
	"idle beyond etcd cpu":    {bound: 1, most: true},
	"idle beyond etcd memory": {bound: 60, most: true},
	"backlog full":            {bound: 0.9, ratio: true},
	"publish-1000p":           {bound: 0.8, ratio: true},
	"queue-1000p":             {bound: 0.8, ratio: true},
}

// holds reports whether a result keeps its limit.
func (l limit) holds(x *result) bool {
	v := x.Median
	if l.ratio {
		v = x.Ratio
	}
	if l.most {
		return v <= l.bound
	}
	return v >= l.bound
}

func (l limit) String() string {
	sign, text := "≥", grouped(l.bound)
	if l.most {
		sign = "≤"
	}
	if l.ratio || l.bound < 100 {
		text = fmt.Sprintf("%g", l.bound)
	}
	if l.ratio {
		text += " ×"
	}
	return sign + " " + text
}
