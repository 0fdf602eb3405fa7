"""TensorBoard on loopback, and the browser that shows it."""

import os
import socket
import sys
import webbrowser
from pathlib import Path

from stn_cli.errors import ResourceError

HOST = "127.0.0.1"
FIRST_PORT = 6006
PORTS_TRIED = 100


def free_port(first: int = FIRST_PORT) -> int:
    """Return the first port from `first` on that nobody listens on.

    Raises:
        ResourceError: a hundred ports in a row are taken.
    """
    ports = range(first, min(first + PORTS_TRIED, 2**16))
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return port
    raise ResourceError(f"the ports {first} to {ports.stop - 1} are taken", "Choose another with --port.")


def start_tensorboard(folder: Path, first: int = FIRST_PORT) -> str:
    """Start TensorBoard on a folder in a background thread, on loopback alone; return its address.

    `first`: the port, or the one after which the next free one is taken.

    Raises:
        ResourceError: there is no such port to be had.
    """
    from tensorboard import program

    port = free_port(first)
    while True:
        server = program.TensorBoard()
        # No --load_fast: its process would outlive a kill of ours, and the events of one run are read in a moment.
        address = ["--logdir", str(folder), "--host", HOST, "--port", str(port)]
        every_image = ["--samples_per_plugin", "images=1000"]  # TensorBoard would thin them out to ten per tag
        server.configure(argv=["tensorboard", *address, *every_image, "--load_fast", "false"])
        try:
            return server.launch()
        except (program.TensorBoardServerException, SystemExit) as error:  # Werkzeug exits where it cannot bind
            failed, port = port, free_port(port)
            if port == failed:  # not taken by another in the meantime
                raise ResourceError(f"TensorBoard cannot open the port {port}", "Choose another --port.") from error


def open_browser(address: str) -> bool:
    """Show an address in the browser of whoever sits at this terminal; return whether there was one to be opened.

    None is without a terminal or a display: in a pipe, over ssh, in a container. Where $BROWSER names one, it is used.
    """
    if sys.platform in ("darwin", "win32"):
        screen = "SSH_CONNECTION" not in os.environ
    else:
        screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not sys.stdout.isatty() or not (screen or os.environ.get("BROWSER")):
        return False
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):  # as where $BROWSER names what is not there
        return False
