package broker

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Disown makes every lease token that the store's owners have given out invalid: it draws another secret for them. It claims the catalogue at an epoch, which
// must be above all that it was claimed at. It is for the copy of a store, while no broker runs on it: what the original goes on leasing cannot settle here.
func Disown(ctx context.Context, e engine.Engine, epoch engine.Epoch) error {
	shard, err := e.Fence(ctx, catalogueShard, epoch)
	if err != nil {
		return fmt.Errorf("claim the catalogue: %w", err)
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // which never fails
	_, err = shard.Commit(ctx, engine.Batch{Writes: []engine.Write{{Key: []byte(keySecret), Value: secret}}})
	return err
}
