"""GStreamer's RTSP server on loopback, for the tests; runs under the Python that Debian's packages belong to.

A line ``96 80`` on stdin changes the size of the frames while they play; the end of stdin ends it.
"""

import argparse
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

# Several slices a picture: a reader must not take one for the whole.
VIDEO = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 option-string=slices=3 "
    "! rtph264pay config-interval=-1",
    "jpeg": "jpegenc ! rtpjpegpay",
}


def caps(width: str, height: str, fps: int) -> str:
    return f"video/x-raw,format=I420,width={width},height={height},framerate={fps}/1"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port")
    parser.add_argument("--codec", choices=[*VIDEO, "sound"], default="h264")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--password")
    options = parser.parse_args()
    Gst.init(None)
    missing = [name for name in ("x264enc", "jpegenc", "rtph264pay", "alawenc") if not Gst.ElementFactory.find(name)]
    if missing:
        sys.exit(f"no {', '.join(missing)}")
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_shared(True)
    if options.codec == "sound":
        factory.set_launch("( audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 )")
    else:
        factory.set_launch(
            "( videotestsrc is-live=true pattern=ball ! videoscale "
            f"! capsfilter name=size caps={caps('128', '96', options.fps)} ! {VIDEO[options.codec]} name=pay0 )"
        )
    medias = []
    factory.connect("media-configure", lambda _, media: medias.append(media))
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    if options.password:
        guard = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        guard.add_basic(GstRtspServer.RTSPAuth.make_basic("viewer", options.password), token)
        server.set_auth(guard)
        role = "viewer,media.factory.access=true,media.factory.construct=true;"
        factory.add_role_from_structure(Gst.Structure.from_string(role)[0])
    server.get_mount_points().add_factory("/ir", factory)
    server.attach(None)
    loop = GLib.MainLoop()

    def obey() -> None:
        for line in sys.stdin:
            size = medias[-1].get_element().get_by_name("size")
            size.set_property("caps", Gst.Caps.from_string(caps(*line.split(), options.fps)))
        loop.quit()

    threading.Thread(target=obey, daemon=True).start()
    loop.run()


main()
