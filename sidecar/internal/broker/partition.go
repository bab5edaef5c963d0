package broker

import "github.com/typedmq/typedmq/internal/partition"

// PartitionOf is the partition of a key, as in Kafka's default partitioner.
func PartitionOf(key []byte, partitions uint32) uint32 { return partition.Of(key, partitions) }
