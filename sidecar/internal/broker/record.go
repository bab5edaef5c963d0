package broker

import (
	"bytes"
	"iter"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/typedmq/typedmq/internal/topic"
)

// Field numbers of mq.broker.v1.Record and Header, which are walked here, not decoded.
const (
	recordKey     = 1
	recordPayload = 2
	recordHeaders = 3
	recordID      = 4
	recordPrio    = 5
	recordDelay   = 6
	recordDeliver = 7
	recordTTL     = 8
	recordReplyTo = 9
	recordCall    = 10
	headerName    = 1
	headerValue   = 2
)

// Record is a record as it is encoded, with its parts found. Slices alias the encoding.
type Record struct {
	Key     []byte
	Payload []byte
	ID      []byte
	// Priority is 0 or 1 for the lowest level.
	Priority uint64
	// DelayMS, DeliverAtMS and TTLMS are as the publisher wrote them, unchecked; 0 is not set.
	DelayMS     uint64
	DeliverAtMS int64
	TTLMS       uint64
	// ReplyTo is the inbox of a call, Call its number there.
	ReplyTo []byte
	Call    uint64

	raw     []byte
	headers int // bytes of names and values
	count   int
}

// ParseRecord finds the parts of an encoded record.
func ParseRecord(raw []byte) (Record, error) {
	var r Record
	err := r.parse(raw)
	return r, err
}

// parse makes the record that of an encoding.
func (r *Record) parse(raw []byte) error {
	*r = Record{raw: raw}
	for b := raw; len(b) > 0; {
		// What almost every field of a record begins with: a tag of one byte, and a length below 128.
		if tag := b[0]; len(b) > 1 && tag&7 == byte(protowire.BytesType) && tag < 0x80 && b[1] < 0x80 && int(b[1]) <= len(b)-2 {
			end := 2 + int(b[1])
			if err := r.field(protowire.Number(tag>>3), b[2:end:end]); err != nil {
				return err
			}
			b = b[end:]
			continue
		}
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ == protowire.VarintType && (num >= recordPrio && num <= recordTTL || num == recordCall) {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			r.number(num, v)
			continue
		}
		if typ != protowire.BytesType {
			return unknownField(num, typ)
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := r.field(num, value); err != nil {
			return err
		}
	}
	return nil
}

func unknownField(num protowire.Number, typ protowire.Type) error {
	return fail(BadRequest, "records", "record has a field %d of wire type %d, which is unknown", num, typ)
}

// field takes a field of bytes.
func (r *Record) field(num protowire.Number, value []byte) error {
	switch num {
	case recordKey:
		r.Key = value
	case recordPayload:
		r.Payload = value
	case recordID:
		r.ID = value
	case recordReplyTo:
		r.ReplyTo = value
	case recordHeaders:
		name, text, err := parseHeader(value)
		if err != nil {
			return err
		}
		r.count++
		r.headers += len(name) + len(text)
	default:
		return unknownField(num, protowire.BytesType)
	}
	return nil
}

func (r *Record) number(num protowire.Number, v uint64) {
	switch num {
	case recordPrio:
		r.Priority = v
	case recordDelay:
		r.DelayMS = v
	case recordDeliver:
		r.DeliverAtMS = int64(v)
	case recordTTL:
		r.TTLMS = v
	case recordCall:
		r.Call = v
	}
}

func parseHeader(b []byte) (name, value []byte, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType || num != headerName && num != headerValue {
			return nil, nil, fail(BadHeader, "records.headers", "header has a field %d of wire type %d, which is unknown", num, typ)
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
		if num == headerName {
			name = v
		} else {
			value = v
		}
	}
	return name, value, nil
}

// Headers yields names and values in the order of the record.
func (r Record) Headers() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for b := r.raw; len(b) > 0; {
			num, typ, n := protowire.ConsumeTag(b)
			if n < 0 {
				return
			}
			m := protowire.ConsumeFieldValue(num, typ, b[n:])
			if m < 0 {
				return
			}
			field := b[n : n+m]
			b = b[n+m:]
			if num != recordHeaders {
				continue
			}
			value, _ := protowire.ConsumeBytes(field)
			name, text, err := parseHeader(value)
			if err != nil || !yield(string(name), string(text)) {
				return
			}
		}
	}
}

// Get returns the last header of a name. It and All make a Record the headers of a filter.
func (r Record) Get(name string) (value string, ok bool) {
	for n, v := range r.Headers() {
		if n == name {
			value, ok = v, true
		}
	}
	return value, ok
}

// All yields each header once: of several of one name the last.
func (r Record) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		m := r.HeaderMap()
		for n, v := range m {
			if !yield(n, v) {
				return
			}
		}
	}
}

// HeaderMap returns the headers as a map, nil if there are none.
func (r Record) HeaderMap() map[string]string {
	if r.count == 0 {
		return nil
	}
	m := make(map[string]string, r.count)
	for n, v := range r.Headers() {
		m[n] = v
	}
	return m
}

// check holds a record against the limits and its topic.
func (r *Record) check(t *topicState, l *Limits) *Error {
	bound := min(l.MessageBytes, int(t.decl.MaxMessageBytes))
	switch {
	case len(r.Payload) > bound:
		return fail(MessageTooLarge, "payload", "message of %d bytes: at most %d are allowed", len(r.Payload), bound).with("bound", bound)
	case len(r.Key) > l.KeyBytes:
		return fail(KeyTooLarge, "key", "key of %d bytes: at most %d are allowed", len(r.Key), l.KeyBytes).with("bound", l.KeyBytes)
	case len(r.Key) == 0 && t.decl.Ordering == topic.PerKey:
		return fail(KeyMissing, "key", "topic %q is ordered by key: an empty key has no order", t.decl.Name)
	case r.count > l.Headers:
		return fail(HeadersTooLarge, "headers", "%d headers: at most %d are allowed", r.count, l.Headers).with("bound", l.Headers)
	case r.headers > l.HeaderBytes:
		return fail(HeadersTooLarge, "headers", "headers of %d bytes: at most %d are allowed", r.headers, l.HeaderBytes).with("bound", l.HeaderBytes)
	case len(r.ID) > 0 && (len(r.ID) > topic.MaxNameBytes || !utf8.Valid(r.ID) || bytes.ContainsFunc(r.ID, unicode.IsControl) || isPlace(r.ID)):
		return fail(BadName, "id", "id must be at most %d bytes of UTF-8 without control characters, and not of the form <partition>-<offset> or <partition>.<priority>-<offset>",
			topic.MaxNameBytes).with("bound", topic.MaxNameBytes)
	case r.Priority > uint64(t.decl.PriorityLevels):
		return badPriority(t, r.Priority)
	case r.TTLMS > maxTTLMS:
		return RefuseTTL(millis(r.TTLMS))
	case len(r.ReplyTo) != 0 && len(r.ReplyTo) != InboxSize:
		return badInbox("reply_to", r.ReplyTo)
	}
	if r.count > 0 {
		for name, value := range r.Headers() {
			if err := topic.CheckHeaderName(name); err != nil {
				return fail(BadHeader, "headers", "%v", err)
			}
			if !cleanValue(value) {
				return fail(BadHeader, "headers", "header %q: its value must be UTF-8 without CR, LF and NUL", name)
			}
		}
	}
	if err := t.codec.Validate(r.Payload); err != nil {
		return fail(SchemaMismatch, "payload", "%v", err).with("message", t.decl.Message.FullName())
	}
	return nil
}

// lane is the log of its partition that the record goes to, from 0.
func (r *Record) lane() uint32 { return uint32(max(1, r.Priority)) - 1 }

// isPlace tells whether an id looks like that of a message without one.
func isPlace(id []byte) bool {
	partition, offset, ok := bytes.Cut(id, []byte("-"))
	if p, priority, has := bytes.Cut(partition, []byte(".")); has {
		partition = p
		ok = ok && isNumber(priority)
	}
	return ok && isNumber(partition) && isNumber(offset)
}

func isNumber(b []byte) bool {
	return len(b) > 0 && !bytes.ContainsFunc(b, func(r rune) bool { return r < '0' || r > '9' })
}

func cleanValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c == '\r' || c == '\n' || c == 0 {
			return false
		}
	}
	return utf8.ValidString(s)
}

// NewRecord encodes a record.
func NewRecord(key, payload []byte, headers []topic.HeaderValue, id string) []byte {
	b := make([]byte, 0, len(key)+len(payload)+len(id)+64)
	b = appendField(b, recordKey, key)
	b = appendField(b, recordPayload, payload)
	for _, h := range headers {
		var inner []byte
		inner = appendField(inner, headerName, []byte(h.Name))
		inner = appendField(inner, headerValue, []byte(h.Value))
		b = protowire.AppendTag(b, recordHeaders, protowire.BytesType)
		b = protowire.AppendBytes(b, inner)
	}
	return appendField(b, recordID, []byte(id))
}

// appendNumber adds one of a record's numbers to its encoding; 0 is not set.
func appendNumber(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendField(b []byte, num protowire.Number, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), value)
}
