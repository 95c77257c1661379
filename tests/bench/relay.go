// A peer of the bench: the relay that a Go programmer writes, with io.Copy both ways (which is splice(2) for TCP
// since Go 1.11) and half-close. relay LISTEN TARGET
package main

import (
	"io"
	"log"
	"net"
	"os"
)

// carry moves one direction and passes its end on.
func carry(target, source *net.TCPConn, done chan<- struct{}) {
	if _, err := io.Copy(target, source); err != nil {
		target.SetLinger(0) // a broken stream must not look complete
		target.Close()
	} else {
		target.CloseWrite()
	}
	done <- struct{}{}
}

func serve(client *net.TCPConn, targetAddress string) {
	defer client.Close()
	dialled, err := net.Dial("tcp", targetAddress)
	if err != nil {
		return
	}
	upstream := dialled.(*net.TCPConn)
	defer upstream.Close()
	done := make(chan struct{}, 2)
	go carry(upstream, client, done)
	carry(client, upstream, done)
	<-done
	<-done
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: relay LISTEN TARGET")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(client.(*net.TCPConn), os.Args[2])
	}
}
