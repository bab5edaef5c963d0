package etcdcluster

import (
	"encoding/hex"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// The bytes that docs/formats/etcd.md shows. A change here is a change of what members of one cluster read from each other.
func TestTheStoredFormIsStable(t *testing.T) {
	key := ownerKey(engine.ShardID{Group: "air/rebooking", Topic: 7, Partition: 3})
	if want := "/typedmq/owner/air%2Frebooking/7/3"; key != want {
		t.Errorf("key %s, want %s", key, want)
	}
	value := hex.EncodeToString([]byte(seal(key, "0f80a203d44ea904")))
	if want := "0a103066383061323033643434656139303415130bbf3c"; value != want {
		t.Errorf("value %s, want %s", value, want)
	}
}

func TestEveryBitOfAValueIsChecked(t *testing.T) {
	key := ownerKey(shard)
	sound := seal(key, "0f80a203d44ea904")
	if member, err := unseal(key, []byte(sound)); err != nil || member != "0f80a203d44ea904" {
		t.Fatalf("a sound value gives %q, %v", member, err)
	}
	for bit := range 8 * len(sound) {
		damaged := []byte(sound)
		damaged[bit/8] ^= 1 << (bit % 8)
		if member, err := unseal(key, damaged); err == nil {
			t.Errorf("with bit %d flipped the value gives %q", bit, member)
		}
	}
	for n := range len(sound) {
		if member, err := unseal(key, []byte(sound[:n])); err == nil {
			t.Errorf("cut to %d bytes the value gives %q", n, member)
		}
	}
}
