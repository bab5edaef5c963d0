package mq

import (
	"fmt"
	"iter"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Bounds of a record besides its payload.
const (
	maxKeyBytes        = 1 << 10
	maxIDBytes         = 249
	maxHeaders         = 64
	maxHeaderBytes     = 32 << 10
	maxHeaderNameBytes = 249
)

// Field numbers of mq.broker.v1.RecordSet, Record and Header. Records are written and walked in their encoding, without a
// generated message in between: on the hot path that would be an allocation or more for each.
const (
	setRecords = 1

	recordKey     = 1
	recordPayload = 2
	recordHeaders = 3
	recordID      = 4

	recordPriority    = 5
	recordDelayMS     = 6
	recordDeliverAtMS = 7
	recordTTLMS       = 8

	recordReplyTo = 9
	recordCall    = 10

	headerName  = 1
	headerValue = 2
)

// Record is what travels beside a message's payload.
type Record struct {
	// Key decides the partition: messages of equal keys share one. At most 1 KiB. Empty: any partition.
	Key []byte
	// ID is the message's id, UTF-8 of at most 249 bytes without control characters, and not of the form of a place, see [WithID]. Empty: the
	// message is known by its place.
	ID string

	headers []header

	priority       int64
	priorityChosen bool // by WithPriority
	hasTTL         bool
	ttl            time.Duration
	timing         *timing // nil: the message enters its topic at once

	// What of it is sent, see resolve. 0 is not set.
	delayMS     uint64
	deliverAtMS int64
	ttlMS       uint64

	// Of a call, see Caller.
	replyTo []byte
	call    uint64
}

type header struct{ name, value string }

// AddHeader sets a header, readable without the schema. The name is visible ASCII of at most 249 bytes, the value UTF-8
// without CR, LF or NUL. A record has at most 64 headers of 32 KiB together. A later value replaces an earlier one of the name.
func (r *Record) AddHeader(name, value string) {
	for i := range r.headers {
		if r.headers[i].name == name {
			r.headers[i].value = value
			return
		}
	}
	r.headers = append(r.headers, header{name, value})
}

// Header returns the value of the header of that name, and whether the record has it.
func (r *Record) Header(name string) (string, bool) {
	for _, h := range r.headers {
		if h.name == name {
			return h.value, true
		}
	}
	return "", false
}

// adopt takes over what travels beside the payload of a record that was encoded.
func (r *Record) adopt(stored *brokerv1.Record) {
	r.Key, r.ID = stored.GetKey(), stored.GetId()
	for _, h := range stored.GetHeaders() {
		r.headers = append(r.headers, header{h.GetName(), h.GetValue()})
	}
	r.priority = int64(stored.GetPriority())
	if ms := stored.GetTtlMs(); ms > 0 {
		r.ttl, r.hasTTL = milliseconds(ms), true
	}
	if ms := stored.GetDelayMs(); ms > 0 {
		t := r.mayWait()
		t.delay, t.hasDelay = milliseconds(ms), true
	}
	if ms := stored.GetDeliverAtMs(); ms != 0 {
		t := r.mayWait()
		t.at, t.hasAt = time.UnixMilli(ms), true
	}
}

// milliseconds is a duration of that many, or the longest if that is shorter.
func milliseconds(ms uint64) time.Duration {
	return time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
}

// check returns the first violation of the bounds above.
func (r *Record) check() error {
	if len(r.Key) > maxKeyBytes {
		return invalid(reasonKeyTooLarge, "key",
			fmt.Sprintf("a key of %d bytes: at most %d are allowed", len(r.Key), maxKeyBytes), maxKeyBytes)
	}
	if len(r.ID) > maxIDBytes || !utf8.ValidString(r.ID) || strings.ContainsFunc(r.ID, unicode.IsControl) || isPlace(r.ID) {
		return invalid(reasonBadID, "id", fmt.Sprintf("id must be at most %d bytes of UTF-8 without control characters, and not of the form "+
			"<partition>-<offset> or <partition>.<priority>-<offset>", maxIDBytes), maxIDBytes)
	}
	if len(r.headers) > maxHeaders {
		return invalid(reasonHeadersTooLarge, "headers", fmt.Sprintf("%d headers: at most %d are allowed", len(r.headers), maxHeaders), maxHeaders)
	}
	total := 0
	for _, h := range r.headers {
		if !cleanName(h.name) {
			return invalid(reasonBadHeader, "headers", fmt.Sprintf("header name %q: must be 1 to %d bytes of visible ASCII",
				h.name[:min(len(h.name), maxHeaderNameBytes)], maxHeaderNameBytes), maxHeaderNameBytes)
		}
		if !cleanText(h.value) {
			return invalid(reasonBadHeader, "headers."+h.name, "the value must be UTF-8 without CR, LF and NUL", 0)
		}
		total += len(h.name) + len(h.value)
	}
	if total > maxHeaderBytes {
		return invalid(reasonHeadersTooLarge, "headers",
			fmt.Sprintf("headers of %d bytes: at most %d are allowed", total, maxHeaderBytes), maxHeaderBytes)
	}
	return nil
}

// messageTooLarge refuses a payload, or a record, of that many bytes.
func messageTooLarge(size, bound int) *Error {
	return invalid(reasonMessageTooLarge, "payload", fmt.Sprintf("a message of %d bytes: at most %d are allowed", size, bound), bound)
}

func cleanName(name string) bool {
	if name == "" || len(name) > maxHeaderNameBytes {
		return false
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isPlace tells whether an id looks like that of a message without one.
func isPlace(id string) bool {
	partition, offset, ok := strings.Cut(id, "-")
	partition, priority, leveled := strings.Cut(partition, ".")
	return ok && isNumber(partition) && isNumber(offset) && (!leveled || isNumber(priority))
}

func isNumber(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

func cleanText(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsAny(text, "\r\n\x00")
}

// appendRecord appends the record of a message as one element of a RecordSet. Payload is the encoding of the message if there is one, else nil,
// and payloadSize is its length, or proto.Size of the message, just computed.
func appendRecord(b []byte, r *Record, message proto.Message, payload []byte, payloadSize int) ([]byte, error) {
	b = protowire.AppendTag(b, setRecords, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(r.size(payloadSize)))
	if len(r.Key) > 0 {
		b = protowire.AppendTag(b, recordKey, protowire.BytesType)
		b = protowire.AppendBytes(b, r.Key)
	}
	if payloadSize > 0 {
		b = protowire.AppendTag(b, recordPayload, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(payloadSize))
		start := len(b)
		var err error
		if payload != nil {
			b = append(b, payload...)
		} else if b, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(b, message); err != nil {
			return nil, err
		}
		if len(b)-start != payloadSize {
			return nil, fmt.Errorf("the message was changed while it was being published")
		}
	}
	for _, h := range r.headers {
		b = protowire.AppendTag(b, recordHeaders, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(h.size()))
		b = protowire.AppendTag(b, headerName, protowire.BytesType)
		b = protowire.AppendString(b, h.name)
		b = protowire.AppendTag(b, headerValue, protowire.BytesType)
		b = protowire.AppendString(b, h.value)
	}
	if r.ID != "" {
		b = protowire.AppendTag(b, recordID, protowire.BytesType)
		b = protowire.AppendString(b, r.ID)
	}
	for i, n := range r.numbers() {
		if n != 0 {
			b = protowire.AppendTag(b, recordPriority+protowire.Number(i), protowire.VarintType)
			b = protowire.AppendVarint(b, n)
		}
	}
	if len(r.replyTo) > 0 {
		b = protowire.AppendTag(b, recordReplyTo, protowire.BytesType)
		b = protowire.AppendBytes(b, r.replyTo)
		b = protowire.AppendTag(b, recordCall, protowire.VarintType)
		b = protowire.AppendVarint(b, r.call)
	}
	return b, nil
}

// numbers are the fields from recordPriority on.
func (r *Record) numbers() [4]uint64 {
	return [4]uint64{uint64(r.priority), r.delayMS, uint64(r.deliverAtMS), r.ttlMS}
}

func (r *Record) size(payloadSize int) int {
	n := 0
	if len(r.Key) > 0 {
		n += 1 + protowire.SizeBytes(len(r.Key))
	}
	if payloadSize > 0 {
		n += 1 + protowire.SizeBytes(payloadSize)
	}
	for _, h := range r.headers {
		n += 1 + protowire.SizeBytes(h.size())
	}
	if r.ID != "" {
		n += 1 + protowire.SizeBytes(len(r.ID))
	}
	for _, number := range r.numbers() {
		if number != 0 {
			n += 1 + protowire.SizeVarint(number)
		}
	}
	if len(r.replyTo) > 0 {
		n += 1 + protowire.SizeBytes(len(r.replyTo)) + 1 + protowire.SizeVarint(r.call)
	}
	return n
}

func (h header) size() int {
	return 2 + protowire.SizeBytes(len(h.name)) + protowire.SizeBytes(len(h.value))
}

// bytesFields yields the length-delimited fields of an encoded message and skips others. A malformed encoding ends the
// sequence with an error.
func bytesFields(b []byte) iter.Seq2[bytesField, error] {
	return func(yield func(bytesField, error) bool) {
		for len(b) > 0 {
			number, kind, n := protowire.ConsumeTag(b)
			if n < 0 {
				yield(bytesField{}, protowire.ParseError(n))
				return
			}
			b = b[n:]
			if kind != protowire.BytesType {
				n = protowire.ConsumeFieldValue(number, kind, b)
				if n < 0 {
					yield(bytesField{}, protowire.ParseError(n))
					return
				}
				b = b[n:]
				continue
			}
			value, n := protowire.ConsumeBytes(b)
			if n < 0 {
				yield(bytesField{}, protowire.ParseError(n))
				return
			}
			b = b[n:]
			if !yield(bytesField{number, value[:len(value):len(value)]}, nil) {
				return
			}
		}
	}
}

type bytesField struct {
	number protowire.Number
	value  []byte // part of the encoding
}

// received is a record as it came, parts of one encoding.
type received struct {
	encoding []byte
	key      []byte
	payload  []byte
	id       string
}

func parseRecord(encoding []byte) (received, error) {
	r := received{encoding: encoding}
	for field, err := range bytesFields(encoding) {
		if err != nil {
			return received{}, err
		}
		switch field.number {
		case recordKey:
			r.key = field.value
		case recordPayload:
			r.payload = field.value
		case recordID:
			r.id = string(field.value)
		}
	}
	return r, nil
}

// headers yields the headers in order. A malformed one ends the sequence.
func (r received) headers() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for field, err := range bytesFields(r.encoding) {
			if err != nil {
				return
			}
			if field.number != recordHeaders {
				continue
			}
			var name, value string
			for part, err := range bytesFields(field.value) {
				if err != nil {
					return
				}
				switch part.number {
				case headerName:
					name = string(part.value)
				case headerValue:
					value = string(part.value)
				}
			}
			if !yield(name, value) {
				return
			}
		}
	}
}
