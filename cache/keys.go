package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"signaldevice/device"
)

// The names of what is in Redis. They are short and binary: each byte of them is paid for by each record.

// tag is the part of a key that decides its cluster slot: the first byte of the mailbox. All keys of a mailbox are in
// one slot, and 256 tags are few enough to add up and enough to spread over a cluster.
type tag byte

func tagOf(m device.Mailbox) tag { return tag(m[0]) }

func allTags() []tag {
	tags := make([]tag, 256)
	for i := range tags {
		tags[i] = tag(i)
	}
	return tags
}

func (t tag) String() string { return "{" + hex.EncodeToString([]byte{byte(t)}) + "}" }

// replies begins the keys of replies, each a record that goes on with its name.
func (t tag) replies() string { return "r" + t.String() }

// seqs begins the keys of requests, each a hash that goes on with the request's digest: for each seq its expiry in µs
// and, once read, the end of its grace in ms, 8 bytes each. Those that were read are the marks. An unread reply with the
// seq 0 is not in it, and most requests have no other: they have no such key before they were read.
func (t tag) seqs() string { return "seqs" + t.String() }

// grace is a sorted set: the name of each reply in its grace, scored by when its body goes, in ms.
func (t tag) grace() string { return "grace" + t.String() }

// unreadParts is how many sorted sets hold the unread replies of one tag. With 100 MB of replies of 1 KB each has about
// twenty: few enough for Redis to pack them, and enough that the set itself weighs little.
const unreadParts = 16

// unread is a sorted set: each unread reply, by the pair and its name, scored by its expiry in µs. One that nobody
// reads is in it as long as it counts.
func (t tag) unread(part byte) string {
	return "unread" + t.String() + hex.EncodeToString([]byte{part})[1:]
}

// owner stands for a mailbox at a device. Each record has it, and who cannot name it does not read the record (I3).
type owner [16]byte

func ownerOf(m device.Mailbox, dev device.ID) owner {
	sum := sha256.Sum256(append(m[:], dev...))
	return owner(sum[:])
}

// part tells which of the tag's sorted sets has the unread replies.
func (o owner) part() byte { return o[len(o)-1] % unreadParts }

// pair tells the replies in one sorted set apart, but for accidents: 4 bytes.
func (o owner) pair() string { return string(o[:4]) }

// digest stands for a request of an owner. Its first 8 bytes begin the names of its replies, the others are in their
// records.
type digest [16]byte

func (o owner) digest(id device.RequestID) digest {
	sum := sha256.Sum256(append(o[:], id...))
	return digest(sum[:])
}

// name names a reply within its tag, but for accidents: 9 bytes, more for a great seq.
func (d digest) name(seq int) string { return string(binary.AppendVarint(d[:8:8], int64(seq))) }
