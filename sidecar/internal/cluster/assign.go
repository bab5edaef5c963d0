package cluster

import (
	"cmp"
	"slices"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Assign says which member should own which shard: every member gets as many as any other or one less, and as few shards as possible leave
// their present owner. It is a pure function: all who call it with the same arguments, in any order, get the same answer. Without
// members nobody owns anything. Duplicates count once; owners that are not members own nothing.
func Assign(members []MemberID, shards []engine.ShardID, owners map[engine.ShardID]MemberID) map[engine.ShardID]MemberID {
	members = slices.Compact(slices.Sorted(slices.Values(members)))
	shards = slices.Compact(slices.SortedFunc(slices.Values(shards), compareShards))
	target := make(map[engine.ShardID]MemberID, len(shards))
	if len(members) == 0 {
		return target
	}
	held := make(map[MemberID]int, len(members))
	for _, shard := range shards {
		if member, owned := owners[shard]; owned {
			held[member]++
		}
	}
	room := quotas(members, held, len(shards))
	var homeless []engine.ShardID
	for _, shard := range shards {
		member, owned := owners[shard]
		if !owned || room[member] == 0 {
			homeless = append(homeless, shard)
			continue
		}
		target[shard] = member
		room[member]--
	}
	next := 0
	for _, shard := range homeless {
		for room[members[next%len(members)]] == 0 {
			next++
		}
		member := members[next%len(members)]
		target[shard] = member
		room[member]--
		next++ // In turn, so that the partitions of a topic spread.
	}
	return target
}

// quotas shares n shards out. Who has most already gets the odd ones, so that fewest move.
func quotas(members []MemberID, held map[MemberID]int, n int) map[MemberID]int {
	byLoad := slices.Clone(members)
	slices.SortStableFunc(byLoad, func(a, b MemberID) int { return cmp.Compare(held[b], held[a]) })
	quota := make(map[MemberID]int, len(members))
	for i, member := range byLoad {
		quota[member] = n / len(members)
		if i < n%len(members) {
			quota[member]++
		}
	}
	return quota
}

func compareShards(a, b engine.ShardID) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}
