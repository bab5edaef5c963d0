package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// draft is a message that is yet to be published, or what is wrong with it. Behind the last one comes io.EOF.
type draft struct {
	json *structpb.Struct
	size int // of the JSON text
	err  error
}

// readAhead bounds the messages that are read while a batch is on its way.
const readAhead = 500

// argumentDrafts reads messages from arguments. All of them are read before any is published.
func argumentDrafts(args []string) (<-chan draft, error) {
	drafts := make(chan draft, len(args)+1)
	for i, arg := range args {
		decoder := json.NewDecoder(strings.NewReader(arg))
		d := nextDraft(decoder)
		if errors.Is(d.err, io.EOF) {
			d.err = errors.New("is empty, want a JSON object")
		} else if d.err == nil && !errors.Is(nextDraft(decoder).err, io.EOF) {
			d.err = errors.New("something follows the JSON object")
		}
		if d.err != nil {
			return nil, usagef("message %d: %w", i+1, d.err)
		}
		drafts <- d
	}
	drafts <- draft{err: io.EOF}
	return drafts, nil
}

// readDrafts reads messages, one JSON object after the other, until the first error. Its goroutine ends then, or with ctx; while it waits for
// input nothing can end it but the end of the process.
func readDrafts(ctx context.Context, r io.Reader) <-chan draft {
	drafts := make(chan draft, readAhead)
	go func() {
		decoder := json.NewDecoder(r)
		for {
			d := nextDraft(decoder)
			select {
			case drafts <- d:
			case <-ctx.Done():
				return
			}
			if d.err != nil {
				return
			}
		}
	}()
	return drafts
}

// receive waits for a message, but no longer than ctx.
func receive(ctx context.Context, drafts <-chan draft) draft {
	select {
	case d := <-drafts:
		return d
	case <-ctx.Done():
		return draft{err: errors.New("interrupted")}
	}
}

func nextDraft(decoder *json.Decoder) draft {
	var raw json.RawMessage
	if err := decoder.Decode(&raw); err != nil {
		if errors.Is(err, io.EOF) {
			return draft{err: io.EOF}
		}
		return draft{err: fmt.Errorf("not JSON: %w", err)}
	}
	object, err := parseObject(raw)
	return draft{object, len(raw), err}
}

// parseObject reads a JSON object. Its numbers become doubles, as JSON numbers do in protobuf; a whole number that would lose digits
// becomes a string, which protobuf takes for 64-bit fields.
func parseObject(raw []byte) (*structpb.Struct, error) {
	if !bytes.HasPrefix(raw, []byte("{")) {
		return nil, errors.New("must be a JSON object")
	}
	object := new(structpb.Struct)
	if err := protojson.Unmarshal(raw, object); err != nil {
		return nil, fmt.Errorf("not a JSON object of protobuf: %w", err)
	}
	var exact any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&exact); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	keepDigits(structpb.NewStructValue(object), exact)
	return object, nil
}

// keepDigits mends the numbers of v, which was read from the same text as exact.
func keepDigits(v *structpb.Value, exact any) {
	switch exact := exact.(type) {
	case map[string]any:
		for name, field := range v.GetStructValue().GetFields() {
			keepDigits(field, exact[name])
		}
	case []any:
		for i, item := range v.GetListValue().GetValues() {
			keepDigits(item, exact[i])
		}
	case json.Number:
		whole, ok := new(big.Int).SetString(exact.String(), 10)
		if !ok {
			return
		}
		if double, _ := big.NewFloat(v.GetNumberValue()).Int(nil); double.Cmp(whole) != 0 {
			v.Kind = &structpb.Value_StringValue{StringValue: exact.String()}
		}
	}
}
