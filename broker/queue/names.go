package queue

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// subjectOf is the reply's subject in the stream: `q.<device>.<mailbox>.<uuid>.<seq>.<final><size>-<arrival>`.
func subjectOf(r *Reply) string {
	final := "p"
	if r.Final {
		final = "f"
	}
	return "q." + string(r.Device) + "." + stream.Token(r.Claims.Mailbox[:]) + "." + stream.Token(r.Claims.UUID[:]) +
		"." + strconv.Itoa(r.Seq) + "." + final + strconv.Itoa(len(r.Body)) + "-" + strconv.FormatInt(r.received.UnixMilli(), 10)
}

// filterOf matches the subjects of one reply.
func filterOf(dev device.ID, p position) string {
	return "q." + string(dev) + ".*." + stream.Token(p.id[:]) + "." + strconv.Itoa(p.reply) + ".*"
}

func parseSubject(subject string) (dev device.ID, id device.UUID, e *entry, ok bool) {
	parts := strings.Split(subject, ".")
	if len(parts) != 6 || len(parts[5]) < 4 || parts[5][0] != 'f' && parts[5][0] != 'p' {
		return "", device.UUID{}, nil, false
	}
	mailbox, err1 := stream.ParseToken(parts[2])
	uuid, err2 := stream.ParseToken(parts[3])
	seq, err3 := strconv.Atoi(parts[4])
	sizeText, atText, found := strings.Cut(parts[5][1:], "-")
	size, err4 := strconv.Atoi(sizeText)
	at, err5 := strconv.ParseInt(atText, 10, 64)
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			return "", device.UUID{}, nil, false
		}
	}
	if !found || len(mailbox) != len(device.Mailbox{}) || len(uuid) != len(id) {
		return "", device.UUID{}, nil, false
	}
	e = &entry{seq: seq, mailbox: device.Mailbox(mailbox), final: parts[5][0] == 'f', size: size, at: requests.Millis(at)}
	return device.ID(parts[1]), device.UUID(uuid), e, true
}

// A position names one reply in one life of the stream: life, device, stream sequence, request and seq.
const positionLen = 8 + 8 + replyLen

type position struct {
	stored uint64 // stream sequence
	id     device.UUID
	reply  int // its seq
}

// replyLen is the length of a position inside a mark.
const replyLen = 8 + 16 + 4

func (p position) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, p.stored)
	b = append(b, p.id[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(p.reply))
}

func readPosition(b []byte) position {
	return position{binary.BigEndian.Uint64(b), device.UUID(b[8:24]), int(binary.BigEndian.Uint32(b[24:]))}
}

func (q *Queue) position(dev device.ID, p position) []byte {
	b := make([]byte, 0, positionLen)
	b = binary.BigEndian.AppendUint64(b, q.life)
	b = binary.BigEndian.AppendUint64(b, deviceSum(dev))
	return p.append(b)
}

func (q *Queue) parsePosition(dev device.ID, b []byte) (position, error) {
	if len(b) != positionLen {
		return position{}, device.Errorf(device.Invalid, "a position is malformed")
	}
	if binary.BigEndian.Uint64(b) != q.life {
		return position{}, device.Errorf(device.Invalid, "a position is of a queue that no longer exists: drain again")
	}
	if binary.BigEndian.Uint64(b[8:]) != deviceSum(dev) {
		return position{}, device.Errorf(device.Invalid, "a position is of another device")
	}
	return readPosition(b[16:]), nil
}

// deviceSum is 64 bits of the device's name.
func deviceSum(dev device.ID) uint64 {
	sum := sha256.Sum256([]byte(dev))
	return binary.BigEndian.Uint64(sum[:])
}
