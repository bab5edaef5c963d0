// Buf-plugin-mq is a check plugin for buf: it sees what buf itself is blind to, the annotations of mq/v1/options.proto. In buf.yaml:
//
//	lint:
//	  use: [STANDARD, TYPEDMQ]
//	breaking:
//	  use: [FILE, TYPEDMQ]
//	plugins:
//	  - plugin: buf-plugin-mq
//
// buf breaking then refuses changes of topics and subscriptions that break somebody, and buf lint finds annotations that are wrong and some that are
// legal but unwise. buf config ls-breaking-rules and buf config ls-lint-rules list the rules.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"buf.build/go/bufplugin/check"

	"github.com/typedmq/typedmq/buf-plugin-mq/internal/rules"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("buf-plugin-mq", version())
		return
	}
	check.Main(rules.Spec())
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
