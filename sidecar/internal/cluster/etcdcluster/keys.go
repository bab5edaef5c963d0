package etcdcluster

import (
	"fmt"
	"hash/crc32"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/cluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	keyRoot      = "/typedmq/"
	memberPrefix = keyRoot + "member/"
	ownerRoot    = keyRoot + "owner/"
	epochBaseKey = keyRoot + "epoch-base"
)

func memberKey(member cluster.MemberID) string { return memberPrefix + string(member) }

// ownerPrefix begins the keys of a topic's group. A slash in the group is escaped, so that no group is the prefix of another.
func ownerPrefix(group string, topic engine.TopicID) string {
	return ownerRoot + url.PathEscape(group) + "/" + strconv.FormatUint(uint64(topic), 10) + "/"
}

func ownerKey(shard engine.ShardID) string {
	return ownerPrefix(shard.Group, shard.Topic) + strconv.FormatUint(uint64(shard.Partition), 10)
}

func partitionOf(prefix, key string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(key, prefix), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: key %s names no partition", cluster.ErrCorrupt, key)
	}
	return uint32(n), nil
}

// seal is the value that says member under a key.
func seal(key, member string) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&storagev1.OwnerValue{Member: member, Checksum: checksum(key, member)})
	if err != nil {
		panic(err) // A message of a valid string and a number always encodes.
	}
	return string(b)
}

// unseal is the member that a value says, or cluster.ErrCorrupt. etcd's own store returns a flipped bit as good data.
func unseal(key string, value []byte) (string, error) {
	var v storagev1.OwnerValue
	if err := proto.Unmarshal(value, &v); err != nil {
		return "", fmt.Errorf("%w: value of %s does not decode", cluster.ErrCorrupt, key)
	}
	if v.GetChecksum() != checksum(key, v.GetMember()) {
		return "", fmt.Errorf("%w: value of %s fails its checksum", cluster.ErrCorrupt, key)
	}
	return v.GetMember(), nil
}

func checksum(key, member string) uint32 {
	return crc32.Checksum([]byte(key+"\x00"+member), crc32.MakeTable(crc32.Castagnoli))
}
