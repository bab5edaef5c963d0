package main

import (
	"fmt"
	"time"
)

// tellEvery is how often what takes long tells how far it is.
const tellEvery = 5 * time.Second

// tell says how far something is that takes long, until stop is called, which returns when nothing more is said.
func (s settings) tell(what string, count func() int64, total int) (stop func()) {
	if s.progress == nil {
		return func() {}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(tellEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(s.progress, "               %s: %s of %s\n", what, grouped(float64(count())), grouped(float64(total)))
			case <-over:
				return
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}
