package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar"
	"github.com/typedmq/typedmq/sidecar/internal/config"
)

func settings(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default(t.TempDir())
	cfg.Listen = "127.0.0.1:0"
	cfg.Socket = filepath.Join(cfg.DataDir, "mq.sock")
	return cfg
}

func start(t *testing.T, cfg config.Config) *sidecar.Sidecar {
	t.Helper()
	began := time.Now()
	s, err := sidecar.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %v", time.Since(began))
	return s
}

func shutdown(t *testing.T, s *sidecar.Sidecar) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServesOnLoopbackAndSocket(t *testing.T) {
	s := start(t, settings(t))
	defer shutdown(t, s)
	if status, _ := get(t, http.DefaultClient, "http://"+s.Addr()+"/readyz"); status != http.StatusOK {
		t.Errorf("over TCP: %d", status)
	}
	overSocket := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Socket())
	}}}
	defer overSocket.CloseIdleConnections()
	if status, _ := get(t, overSocket, "http://sidecar/readyz"); status != http.StatusOK {
		t.Errorf("over the socket: %d", status)
	}
}

func TestADirectoryIsForOneProcess(t *testing.T) {
	cfg := settings(t)
	s := start(t, cfg)
	_, err := sidecar.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if !errors.Is(err, sidecar.ErrDataDir) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a second sidecar on the directory got %v", err)
	}
	shutdown(t, s)
	s = start(t, cfg) // free again
	shutdown(t, s)
}

func TestABusyAddressIsAnError(t *testing.T) {
	s := start(t, settings(t))
	defer shutdown(t, s)
	other := settings(t)
	other.Listen = s.Addr()
	if _, err := sidecar.Start(t.Context(), other, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), s.Addr()) {
		t.Errorf("a second sidecar on the address got %v", err)
	}
	other = settings(t)
	other.Socket = s.Socket()
	if _, err := sidecar.Start(t.Context(), other, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("a second sidecar on the socket got %v", err)
	}
}

func checkOf(t *testing.T, dir string) (findings int, err error) {
	t.Helper()
	sum, err := sidecar.Check(t.Context(), dir, func(f sidecar.Finding) { t.Log(f) }, func(sidecar.CheckProgress) {})
	return sum.Findings, err
}

// TestTheAdviceOnADamagedFormatFileHelps: what the error says to write makes a sound store of it.
func TestTheAdviceOnADamagedFormatFileHelps(t *testing.T) {
	cfg := settings(t)
	shutdown(t, start(t, cfg))
	file := filepath.Join(cfg.DataDir, "store", "FORMAT")
	if err := os.WriteFile(file, []byte("typEdmq engine 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, refused := sidecar.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if _, err := checkOf(t, cfg.DataDir); !errors.Is(err, sidecar.ErrDataDir) || fmt.Sprint(err) != fmt.Sprint(refused) {
		t.Errorf("the check says %v, the sidecar %v", err, refused)
	}
	said := regexp.MustCompile(`write the line "(.*?)" into that file`).FindStringSubmatch(fmt.Sprint(refused))
	if said == nil {
		t.Fatalf("the sidecar says %v", refused)
	}
	if err := os.WriteFile(file, []byte(said[1]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := checkOf(t, cfg.DataDir); found > 0 || err != nil {
		t.Errorf("then: %d findings, %v", found, err)
	}
	shutdown(t, start(t, cfg))
}

func TestACheckOfADirectoryInUseIsRefused(t *testing.T) {
	cfg := settings(t)
	s := start(t, cfg)
	defer shutdown(t, s)
	if _, err := checkOf(t, cfg.DataDir); !errors.Is(err, sidecar.ErrDataDir) || !strings.Contains(err.Error(), "stop the sidecar") || strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("the check says %v", err)
	}
}

// TestAStoreWithoutOneOfItsFilesIsRefused: what is missing is named, with what to do, and nothing is put in its place.
func TestAStoreWithoutOneOfItsFilesIsRefused(t *testing.T) {
	for _, pattern := range []string{"*.sst", "MANIFEST-*"} {
		cfg := settings(t)
		shutdown(t, start(t, cfg))
		names, err := filepath.Glob(filepath.Join(cfg.DataDir, "store", pattern))
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		_, err = sidecar.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
		number := regexp.MustCompile("[0-9]{6}").FindString(filepath.Base(names[0]))
		if !errors.Is(err, sidecar.ErrDataDir) || !strings.Contains(err.Error(), number) || !strings.Contains(err.Error(), "restore a backup") {
			t.Errorf("without %s: %v", pattern, err)
		}
	}
}
