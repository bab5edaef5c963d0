// Package plot draws bars as SVG. It knows nothing of what they show.
package plot

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// Chart is groups of bars below each other.
type Chart struct {
	Title    string
	Subtitle string
	Groups   []Group
}

// Group is bars of one unit, which are drawn in proportion to each other.
type Group struct {
	Title string
	// Parts names the parts that bars are made of, if they have more than one.
	Parts []string
	Bars  []Bar
}

// Bar is one row.
type Bar struct {
	Label string
	// Parts are drawn after each other. None is below zero.
	Parts []float64
	// Text is written at its end.
	Text string
	// Limit is where a mark is drawn; 0 for none.
	Limit float64
	// Missed draws the text as that of a limit that does not hold.
	Missed bool
}

const (
	width  = 960
	left   = 190 // where bars begin
	right  = 190 // room for the texts behind them
	row    = 18
	header = 34
)

var colours = []string{"#4878a8", "#e0a050", "#70a070"}

// Write draws the chart.
func (c Chart) Write(w io.Writer) error {
	var out strings.Builder
	y := 58
	for _, g := range c.Groups {
		y = g.draw(&out, y)
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
<text x="12" y="24" font-size="17" font-weight="bold">%s</text>
<text x="12" y="44" fill="#555">%s</text>
%s</svg>
`, width, y+12, width, y+12, escaped(c.Title), escaped(c.Subtitle), out.String())
	return err
}

// draw draws a group from y on and returns where the next begins.
func (g Group) draw(out *strings.Builder, y int) int {
	var most float64
	for _, b := range g.Bars {
		most = max(most, b.sum(), b.Limit)
	}
	y += header
	fmt.Fprintf(out, "<text x=\"12\" y=\"%d\" font-size=\"14\" font-weight=\"bold\">%s</text>\n", y-12, escaped(g.Title))
	for i, name := range g.Parts {
		x := left + 220 + i*110
		fmt.Fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"10\" height=\"10\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n", x, y-21, colour(i), x+15, y-12, escaped(name))
	}
	for _, b := range g.Bars {
		b.draw(out, y, most)
		y += row
	}
	return y
}

func (b Bar) draw(out *strings.Builder, y int, most float64) {
	scale := func(v float64) float64 {
		if most <= 0 {
			return 0
		}
		return v / most * (width - left - right)
	}
	fmt.Fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left-8, y+13, escaped(b.Label))
	var at float64
	for i, v := range b.Parts {
		fmt.Fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", left+scale(at), y+2, scale(v), row-4, colour(i))
		at += v
	}
	if b.Limit > 0 {
		fmt.Fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"2\" height=\"%d\" fill=\"#c03030\"/>\n", left+scale(b.Limit)-1, y, row)
	}
	fill := "#222"
	if b.Missed {
		fill = "#c03030"
	}
	fmt.Fprintf(out, "<text x=\"%.1f\" y=\"%d\" fill=\"%s\">%s</text>\n", left+scale(max(at, b.Limit))+6, y+13, fill, escaped(b.Text))
}

func (b Bar) sum() (sum float64) {
	for _, v := range b.Parts {
		sum += v
	}
	return sum
}

func colour(i int) string { return colours[i%len(colours)] }

func escaped(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text)) // a Builder takes all
	return out.String()
}
