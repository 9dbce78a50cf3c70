// Command app is what the tests of package deploy run as an instance: a server that misbehaves as it is told to, by its
// environment when it starts and by requests later.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if text, ok := os.LookupEnv("APP_DIES"); ok {
		fmt.Println(text)
		os.Exit(3)
	}
	if len(os.Args) > 1 && os.Args[1] == "print" { // as a hook would
		for _, name := range os.Args[2:] {
			fmt.Printf("%s=%s\n", name, os.Getenv(name))
		}
		if code, err := strconv.Atoi(os.Getenv("APP_EXIT")); err == nil {
			os.Exit(code)
		}
		return
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		for range term {
			fmt.Println("got SIGTERM")
			if os.Getenv("APP_STUBBORN") == "" {
				os.Exit(0)
			}
		}
	}()
	port := os.Getenv("PORT")
	if p := os.Getenv("APP_PORT"); p != "" {
		port = p
	}
	if os.Getenv("APP_PORT") == "none" {
		select {}
	}
	if d, err := time.ParseDuration(os.Getenv("APP_SLOW")); err == nil {
		time.Sleep(d)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening as", os.Getenv("APP_NAME"))
	var mode atomic.Value
	mode.Store(os.Getenv("APP_HEALTH"))
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		switch m := mode.Load().(string); m {
		case "":
			fmt.Fprintln(w, "ok")
		case "hang":
			<-r.Context().Done()
		default:
			http.Error(w, m+"\nand more", http.StatusInternalServerError)
		}
	})
	http.HandleFunc("/mode", func(w http.ResponseWriter, r *http.Request) { mode.Store(r.FormValue("health")) })
	http.HandleFunc("/die", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("told to die")
		os.Exit(7)
	})
	http.HandleFunc("/eat", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("bytes"))
		b := make([]byte, n)
		for i := 0; i < n; i += 4096 {
			b[i] = 1
		}
		fmt.Fprintln(w, len(b))
	})
	http.HandleFunc("/say", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("lines"))
		for i := range n {
			fmt.Printf("line %d %s\n", i, strings.Repeat("x", 100))
		}
		text, _ := io.ReadAll(r.Body)
		fmt.Print(string(text))
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		dir, _ := os.Getwd()
		fmt.Fprintf(w, "%s %d %s\n", os.Getenv("APP_NAME"), os.Getpid(), dir)
		for _, name := range r.URL.Query()["env"] {
			fmt.Fprintf(w, "%s=%s\n", name, os.Getenv(name))
		}
	})
	fmt.Println(http.Serve(l, nil))
}
