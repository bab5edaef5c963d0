package partition

import "testing"

// The hashes are those that Kafka's own clients agree on.
func TestOfIsKafkas(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got, want := Of([]byte(key), 1000), (uint32(hash)&0x7fffffff)%1000; got != want {
			t.Errorf("key %q: partition %d, want %d", key, got, want)
		}
	}
}
