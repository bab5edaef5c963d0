package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// parseSpan reads a span of time: as Go writes one, or whole days such as 7d, at most 100 years.
func parseSpan(text string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		const most = 100 * 365
		if err != nil || n < -most || n > most {
			return 0, false
		}
		return time.Duration(n) * 24 * time.Hour, true
	}
	d, err := time.ParseDuration(text)
	return d, err == nil
}

// spanFlag is the value of a flag that is a span of time.
type spanFlag time.Duration

// String implements pflag.Value. Zero is empty, so that help shows no default.
func (f *spanFlag) String() string {
	if *f == 0 {
		return ""
	}
	return time.Duration(*f).String()
}

// Type implements pflag.Value.
func (f *spanFlag) Type() string { return "span" }

// Set implements pflag.Value.
func (f *spanFlag) Set(text string) error {
	d, ok := parseSpan(text)
	if !ok {
		return errors.New("must be a span of time such as 90s, 36h or 10d")
	}
	*f = spanFlag(d)
	return nil
}
