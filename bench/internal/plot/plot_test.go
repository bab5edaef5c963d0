package plot_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"testing"

	"github.com/typedmq/typedmq/bench/internal/plot"
)

// rects reads the widths of the rectangles of a colour, and all text.
func rects(t *testing.T, svg []byte, fill string) (widths []float64, texts []string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return widths, texts
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		switch e := token.(type) {
		case xml.CharData:
			if text := string(bytes.TrimSpace(e)); text != "" {
				texts = append(texts, text)
			}
		case xml.StartElement:
			a := map[string]string{}
			for _, x := range e.Attr {
				a[x.Name.Local] = x.Value
			}
			if e.Name.Local == "rect" && a["fill"] == fill && a["height"] == "14" {
				v, err := strconv.ParseFloat(a["width"], 64)
				if err != nil {
					t.Error(err)
				}
				widths = append(widths, v)
			}
		}
	}
}

func TestBarsAreInProportion(t *testing.T) {
	var out bytes.Buffer
	err := plot.Chart{Title: "a & <b>", Subtitle: "sub", Groups: []plot.Group{
		{Title: "first", Bars: []plot.Bar{{Label: "whole", Parts: []float64{100}, Text: "100/s"}, {Label: "half", Parts: []float64{50}, Limit: 75, Missed: true}}},
		{Title: "other", Parts: []string{"x", "y"}, Bars: []plot.Bar{{Parts: []float64{1, 3}}, {Parts: []float64{0}}}},
		{Title: "nothing", Bars: []plot.Bar{{Parts: []float64{0}}}},
	}}.Write(&out)
	if err != nil {
		t.Fatal(err)
	}
	widths, texts := rects(t, out.Bytes(), "#4878a8")
	if len(widths) != 5 || math.Abs(widths[0]-2*widths[1]) > 0.2 || math.Abs(widths[0]-4*widths[2]) > 0.3 || widths[3] != 0 || widths[4] != 0 {
		t.Errorf("widths %v", widths)
	}
	second, _ := rects(t, out.Bytes(), "#e0a050")
	if len(second) != 1 || math.Abs(second[0]-3*widths[2]) > 0.3 {
		t.Errorf("widths of second parts %v", second)
	}
	for i, want := range []string{"a & <b>", "sub", "first", "whole", "100/s"} {
		if texts[i] != want {
			t.Errorf("text %d is %q, want %q", i, texts[i], want)
		}
	}
}
