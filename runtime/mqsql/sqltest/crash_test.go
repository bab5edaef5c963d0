package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1/flightsv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
)

// A process with this variable is a relay that kills itself: "dialect driver journal dies dsn".
const crashingRelay = "MQSQL_CRASHING_RELAY"

// relayThatIsKilled sends to a file, of which it writes a line for each message, synced like a sidecar's, and kills itself, as kill -9 does, when it has sent the message
// with the number that it is told: published, and not noted. With 0 it ends when nothing is left.
func relayThatIsKilled(job string) {
	part := strings.SplitN(job, " ", 5)
	dialect, _ := strconv.Atoi(part[0])
	dies, _ := strconv.Atoi(part[3])
	fatal := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	db, err := sql.Open(part[1], part[4])
	fatal(err)
	journal, err := os.OpenFile(part[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	fatal(err)
	n := 0
	turn := make(chan struct{}, 1)
	to := senderFunc(func(_ context.Context, p *mq.Publication) (mq.Receipt, error) {
		turn <- struct{}{}
		defer func() { <-turn }()
		if _, err := fmt.Fprintf(journal, "%s %s\n", p.Record().ID, p.Message().(*flightsv1.FlightDeparted).GetFlightId()); err != nil {
			return mq.Receipt{}, err
		}
		if n++; n == dies {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return mq.Receipt{}, nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	o := mqsql.NewOutbox(db, mqsql.Dialect(dialect))
	go func() {
		for ctx.Err() == nil {
			if s, err := o.Stats(ctx); err == nil && s.Waiting == 0 && dies == 0 {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	fatal(o.Relay(to, mqsql.WithRelayName("the one")).Run(ctx))
}

// However often a relay is killed between sending and noting, all is sent, in order, and what is sent again has the id that it had.
func TestKilledBetweenSendingAndNoting(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		const origins, each = 5, 20
		o := mqsql.NewOutbox(db.DB, db.dialect)
		want := map[string]string{} // flight by id
		db.tx(t, func(ctx context.Context, tx *sql.Tx) error {
			pub := flightsv1mq.NewFlightEventsPublisher(o.On(tx))
			for n := range each {
				for i := range origins {
					flight := fmt.Sprintf("A%d/%d", i, n+1)
					receipt, err := pub.Departed(ctx, &flightsv1.FlightDeparted{Origin: fmt.Sprintf("A%d", i), FlightId: flight})
					if err != nil {
						return err
					}
					want[receipt.ID] = flight
				}
			}
			return nil
		})
		journal := filepath.Join(t.TempDir(), "journal")
		for _, dies := range []int{1, 7, 30, 99, 2, 0} {
			c := exec.CommandContext(t.Context(), os.Args[0])
			c.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s %d %s", crashingRelay, db.dialect, db.driver, journal, dies, db.dsn))
			out, err := c.CombinedOutput()
			var exit *exec.ExitError
			if killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL; killed != (dies > 0) {
				t.Fatalf("it was to die at %d: %v\n%s", dies, err, out)
			}
		}
		text, err := os.ReadFile(journal)
		if err != nil {
			t.Fatal(err)
		}
		var flights []string
		ids := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			id, flight, _ := strings.Cut(strings.TrimSpace(line), " ")
			if want[id] != flight {
				t.Errorf("%s was sent as %s", flight, id)
			}
			ids[id] = true
			flights = append(flights, flight)
		}
		if len(ids) != origins*each || len(flights) == len(ids) {
			t.Errorf("%d messages of %d were sent, %d times in all", len(ids), origins*each, len(flights))
		}
		inOrder(t, flights, each)
	})
}
