package container

// StandIn is what runs in the place of an image.
type StandIn struct {
	Image   Image
	Options *Options
	// Says is a sentence for the log.
	Says string
}
