// Package partition knows which partition of a topic a key belongs to. Clients and sidecar must agree on it.
package partition

// Of is the partition of a key: murmur2 as Kafka's default partitioner uses it, so that the same key lands on the same partition
// whatever wrote it. The algorithm is Austin Appleby's MurmurHash2 (public domain) with Kafka's seed.
func Of(key []byte, partitions uint32) uint32 {
	return (murmur2(key) & 0x7fffffff) % partitions
}

func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
