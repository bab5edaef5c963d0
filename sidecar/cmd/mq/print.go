package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// table aligns cells in columns. Cells may hold anything: what could disturb a terminal is escaped, and nothing is shown as "-".
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, header ...any) *table {
	t := &table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	if len(header) > 0 {
		t.row(header...)
	}
	return t
}

func (t *table) row(cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			_, _ = t.w.Write([]byte{'\t'})
		}
		text := printable(fmt.Sprint(cell))
		if text == "" {
			text = "-"
		}
		_, _ = io.WriteString(t.w, text)
	}
	_, _ = t.w.Write([]byte{'\n'})
}

// flush prints the rows. Only here can printing fail.
func (t *table) flush() error { return t.w.Flush() }

// printJSON prints a message over several lines.
func printJSON(w io.Writer, m proto.Message) error {
	line, err := jsonLine(m)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, line, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// printJSONLine prints a message on one line.
func printJSONLine(w io.Writer, m proto.Message) error {
	line, err := jsonLine(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// jsonLine is protobuf's JSON with every field and without the random spaces that protojson adds.
func jsonLine(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return nil, err
	}
	return escapeJSON(out.Bytes()), nil
}

// escapeJSON writes characters that a terminal may obey in the way of JSON, which changes nothing for a program.
func escapeJSON(text []byte) []byte {
	if bytes.IndexFunc(text, obscure) < 0 {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		if !obscure(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}

// body shows a message's JSON on one line.
func body(s *structpb.Struct) string {
	if s == nil {
		return "(does not decode)"
	}
	line, err := jsonLine(s)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(line)
}

// printable escapes what is no visible character: messages and errors come from strangers, and a terminal obeys what it is sent.
func printable(s string) string {
	if strings.IndexFunc(s, obscure) < 0 && utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for i, r := range s {
		switch {
		case unicode.Is(unicode.Zs, r):
			out.WriteByte(' ') // protobuf's errors have spaces that do not break
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&out, `\x%02x`, s[i])
		case obscure(r):
			quoted := strconv.QuoteRune(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

func obscure(r rune) bool { return !unicode.IsPrint(r) }

// printableText is printable for text of several lines.
func printableText(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		cells := strings.Split(line, "\t")
		for j := range cells {
			cells[j] = printable(cells[j])
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}

// clip shows the first line of a text, at most n characters of it.
func clip(s string, n int) string {
	first, rest, _ := strings.Cut(s, "\n")
	runes := []rune(first)
	if len(runes) <= n && rest == "" {
		return first
	}
	return string(runes[:min(len(runes), n)]) + "…"
}

// pairs shows a map as "a=1, b=2".
func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ", ")
}

// at shows a time, to the millisecond.
func at(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format("2006-01-02T15:04:05.000Z07:00")
}

// place shows where a message rests, in the form of an id: with its priority if that is above the lowest, since each level has offsets of its own.
func place(partition, priority uint32, offset int64) string {
	if priority > 1 {
		return fmt.Sprintf("%d.%d-%d", partition, priority, offset)
	}
	return fmt.Sprintf("%d-%d", partition, offset)
}

// unlessZero shows a number of which 0 is none.
func unlessZero[N uint32 | uint64](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// span shows a duration without its zeros: 1h, not 1h0m0s.
func span(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	text := d.AsDuration().Round(time.Millisecond).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
