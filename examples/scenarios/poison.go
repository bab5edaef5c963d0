package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/typedmq/typedmq/examples/internal/child"
	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// thumbnailsCommand makes this program a consumer: the scenario runs it as a process of its own, since it is going to die.
const thumbnailsCommand = "serve-thumbnails"

// thumbnails implements scenariosv1mq.ThumbnailsConsumer. It knows nothing of its fate.
type thumbnails struct{ out io.Writer }

// OnUploaded ends the process at one format, as a library would that frees memory twice: no error, no panic that somebody could recover.
func (t *thumbnails) OnUploaded(ctx context.Context, picture *scenariosv1.Picture) error {
	if picture.GetFormat() == "broken" {
		os.Exit(139)
	}
	time.Sleep(5 * time.Millisecond) // the work
	_, err := fmt.Fprintf(t.out, "%s %d\n", picture.GetPictureId(), mq.MetaFrom(ctx).Attempt)
	return err
}

// serveThumbnails is all that such a service is: a client, a worker, and a context that ends with SIGTERM.
func serveThumbnails(ctx context.Context, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	client, err := mq.Dial(ctx)
	if err != nil {
		return err
	}
	worker := mq.NewWorker(client)
	scenariosv1mq.RegisterThumbnailsConsumer(worker, &thumbnails{out})
	return errors.Join(worker.Run(ctx), client.Close())
}

func runPoison(ctx context.Context, s *stage) (measured figures, err error) {
	const group, topic, pictures, poison = "thumbnails", "pictures", 100, 40
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewGalleryPublisher(client)
	var uploads []*scenariosv1.Picture
	for i := range pictures {
		picture := &scenariosv1.Picture{PictureId: fmt.Sprintf("picture-%d", i), Format: "png"}
		if i == poison {
			picture.Format = "broken"
		}
		uploads = append(uploads, picture)
	}
	err = publishAll(ctx, uploads, func(ctx context.Context, picture *scenariosv1.Picture) error {
		_, err := publisher.Uploaded(ctx, picture)
		return err
	})
	if err != nil {
		return nil, err
	}

	watch := &supervisor{stage: s, attempts: map[string][]string{}}
	defer watch.stop()
	if err := watch.start(ctx); err != nil {
		return nil, err
	}
	letters, err := s.buried(ctx, group, topic, 1)
	if err != nil {
		return nil, err
	}
	if d := letters[0]; len(letters) != 1 || d.GetReason() != "consumers_lost" || d.GetJson().GetFields()["format"].GetStringValue() != "broken" {
		return nil, fmt.Errorf("the dead letters are %v", letters)
	}
	now, err := s.settled(ctx, group, topic)
	if err != nil {
		return nil, err
	}
	watch.stop() // so that all it had to say is in
	again, err := checkThumbnails(watch.attempts, uploads)
	if err != nil {
		return nil, err
	}
	measured.add("pictures", pictures)
	measured.add("crashes", watch.crashes)
	measured.add("lost_deliveries", now.losses)
	measured.add("handled", len(watch.attempts))
	measured.add("handled_again", again)
	measured.add("dead_lettered", len(letters))
	return measured, nil
}

// supervisor starts the service again whenever it dies, as systemd or Kubernetes would.
type supervisor struct {
	stage    *stage
	mu       sync.Mutex
	stopped  bool
	process  *child.Process
	crashes  int
	attempts map[string][]string // by picture, of each time it was handled
}

func (v *supervisor) start(ctx context.Context) (err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stopped {
		return nil
	}
	v.process, err = child.Start(v.stage.dir, child.Program{
		Name: "thumbnails", Path: v.stage.self, Args: []string{thumbnailsCommand}, Env: v.stage.server.Env(),
		Read: v.note,
		Ended: func(*child.Process) {
			v.mu.Lock()
			v.crashes++
			v.mu.Unlock()
			if err := v.start(ctx); err != nil {
				v.stage.fail(err)
			}
		},
	})
	return err
}

// note takes a line of the service.
func (v *supervisor) note(line string) error {
	picture, attempt, ok := strings.Cut(line, " ")
	if !ok {
		return fmt.Errorf("strange line %q", line)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.attempts[picture] = append(v.attempts[picture], attempt)
	return nil
}

// stop ends the service for good.
func (v *supervisor) stop() {
	v.mu.Lock()
	v.stopped = true
	p := v.process
	v.mu.Unlock()
	if p != nil {
		_ = p.Stop(patience)
	}
}

// checkThumbnails checks that every picture but the poison was handled, with its first attempt. It returns how many handlings were not the
// first of their picture: the work was done, and the acknowledgement died with the process.
func checkThumbnails(attempts map[string][]string, uploads []*scenariosv1.Picture) (again int, err error) {
	for _, p := range uploads {
		id, handled := p.GetPictureId(), attempts[p.GetPictureId()]
		switch {
		case p.GetFormat() == "broken" && len(handled) > 0:
			return 0, fmt.Errorf("%s was handled, though it kills whoever tries", id)
		case p.GetFormat() == "broken":
			continue
		case len(handled) == 0:
			return 0, fmt.Errorf("%s was not handled", id)
		}
		for _, attempt := range handled {
			if attempt != "1" {
				return 0, fmt.Errorf("%s was handled as attempt %s, though nobody failed at it", id, attempt)
			}
		}
		again += len(handled) - 1
	}
	return again, nil
}
