package main

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain «ü» 日本": "plain «ü» 日本", "a\tb\nc": `a\tb\nc`, "\x1b[2J": `\x1b[2J`, "\xff\uFFFD": "\\xff\uFFFD", "\u202e\u009b": `\u202e\u009b`, "a\u00a0b": "a b",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
	if got, want := printableText("a\n\tb\x07\n"), "a\n\tb\\a\n"; got != want {
		t.Errorf("printableText = %q, want %q", got, want)
	}
}

func TestEscapeJSONChangesNothing(t *testing.T) {
	const text = "\u009b \u202e \U000e0001 ü"
	in := `{"a":"` + text + `"}`
	out := escapeJSON([]byte(in))
	if want := `{"a":"\u009b \u202e \udb40\udc01 ü"}`; string(out) != want {
		t.Errorf("got %s, want %s", out, want)
	}
	var back struct{ A string }
	if err := json.Unmarshal(out, &back); err != nil || back.A != text {
		t.Errorf("reads back as %q, %v", back.A, err)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", time.Hour: "1h", 168 * time.Hour: "168h", 70 * time.Minute: "1h10m",
		3610 * time.Second: "1h0m10s", 1500 * time.Microsecond: "2ms",
	} {
		if got := span(durationpb.New(d)); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}
