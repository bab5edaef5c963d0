package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

func newDLQShow(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "show GROUP TOPIC ID",
		Short:   "Show a dead letter: why it died, and the message",
		Example: "  mq dlq show rebooking flights.departed 3-17",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return showDeadLetter(cmd, c, args[0], args[1], args[2])
		},
	}
}

// showDeadLetter shows every dead letter of the id: nothing keeps a publisher from using one twice.
func showDeadLetter(cmd *cobra.Command, c *cli, group, topic, id string) error {
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	answer, err := ask(cmd.Context(), sidecar, sidecar.admin.ListDeadLetters,
		&adminv1.ListDeadLettersRequest{Group: group, Topic: topic, Id: id, PageSize: deadLetterPage})
	if err != nil {
		return err
	}
	if len(answer.GetDeadLetters()) == 0 {
		return fmt.Errorf("no dead letter %q of group %s in topic %s; mq dlq list shows those there are", id, group, topic)
	}
	if c.format == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	for i, d := range answer.GetDeadLetters() {
		if i > 0 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		if err := printDeadLetter(cmd.OutOrStdout(), d); err != nil {
			return err
		}
	}
	return nil
}

func printDeadLetter(w io.Writer, d *adminv1.DeadLetter) error {
	t := newTable(w)
	t.row("id:", d.GetId())
	t.row("group:", d.GetGroup())
	t.row("topic:", d.GetTopic())
	t.row("place:", place(d.GetPartition(), d.GetPriority(), d.GetOffset()))
	t.row("reason:", d.GetReason())
	t.row("attempts:", d.GetAttempts())
	t.row("published:", at(d.GetPublished()))
	t.row("died:", at(d.GetDied()))
	if d.GetPriority() > 0 {
		t.row("priority:", d.GetPriority())
	}
	t.row("key:", string(d.GetKey()))
	if d.GetHoldsKey() {
		t.row("holds key:", "later messages of the key wait for it")
	}
	t.row("headers:", pairs(d.GetHeaders()))
	if err := t.flush(); err != nil {
		return err
	}
	printError(w, "first error", d.GetFirstError())
	if d.GetLastError() != d.GetFirstError() {
		printError(w, "last error", d.GetLastError())
	}
	if d.GetJson() == nil {
		_, err := fmt.Fprintf(w, "message: %d bytes that do not decode; --output json shows them\n", len(d.GetPayload()))
		return err
	}
	var message bytes.Buffer
	if err := json.Indent(&message, []byte(body(d.GetJson())), "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "message:\n%s\n", printableText(message.String()))
	return err
}

// printError prints an error, which may be a stack of many lines.
func printError(w io.Writer, what, text string) {
	if text == "" {
		return
	}
	fmt.Fprintf(w, "%s:\n", what)
	for line := range strings.Lines(text) {
		fmt.Fprintf(w, "  %s\n", printableText(strings.TrimRight(line, "\r\n")))
	}
}
