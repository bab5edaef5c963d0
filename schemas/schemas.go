// Package schemas holds the text of the annotations, for programs that write it where a project needs it. The generated code is below gen.
package schemas

import _ "embed"

// Options is mq/v1/options.proto.
//
//go:embed mq/v1/options.proto
var Options []byte
