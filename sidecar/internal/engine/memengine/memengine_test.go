package memengine_test

import (
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/enginetest"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
)

func TestConformance(t *testing.T) {
	enginetest.Run(t, func(*testing.T) enginetest.Harness {
		return enginetest.Harness{Engine: memengine.New()}
	})
}

func BenchmarkEngine(b *testing.B) {
	enginetest.Bench(b, func(*testing.B) engine.Engine { return memengine.New() })
}
