"use strict";
(() => {
  const section = document.getElementById("videos");
  const videos = [...section.querySelectorAll("video")];
  const views = [...section.querySelectorAll("video, img.view")];
  const difference = section.querySelector(".difference");
  const cursors = [...document.querySelectorAll(".cursor")];
  const player = section.querySelector(".player");

  const drawDifference = () => {
    if (!difference) return;
    const canvas = difference.querySelector("canvas");
    const [dense, accelerated] = views;
    const width = dense.videoWidth || dense.naturalWidth;
    const height = dense.videoHeight || dense.naturalHeight;
    if (!width) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.globalCompositeOperation = "copy";
    pen.drawImage(dense, 0, 0, width, height);
    pen.globalCompositeOperation = "difference";
    pen.drawImage(accelerated, 0, 0, width, height);
    difference.hidden = false;
  };

  for (const view of views) {
    for (const event of ["loadeddata", "load", "seeked"]) view.addEventListener(event, drawDifference);
  }
  drawDifference();
  if (!player || !videos.length) return;

  const play = document.getElementById("play");
  const scrub = document.getElementById("scrub");
  const position = document.getElementById("position");
  const rate = document.getElementById("rate");
  const frames = Number(section.dataset.frames) || 0;
  const leader = videos[0];
  if (frames > 1) scrub.max = frames - 1;
  player.hidden = false;
  for (const video of videos) video.removeAttribute("controls");

  const share = () => (leader.duration ? Math.min(leader.currentTime / leader.duration, 1) : 0);

  const showAt = (share) => {
    const frame = Math.min(Math.floor(share * frames + 1e-6), frames - 1);
    scrub.value = frames > 1 ? frame : share * 1000;
    position.value = frames > 1 ? `frame ${frame + 1} of ${frames}` : `${(share * leader.duration || 0).toFixed(2)} s`;
    const along = frames > 1 ? frame / (frames - 1) : share;
    for (const cursor of cursors) {
      const [from, to] = [Number(cursor.dataset.from), Number(cursor.dataset.to)];
      cursor.setAttribute("x1", from + along * (to - from));
      cursor.setAttribute("x2", from + along * (to - from));
    }
  };

  const show = () => {
    if (!leader.seeking) showAt(share());
  };

  // The middle of a frame's time: its edge may be rounded into the neighbour. The position is shown at once:
  // a large video may take seconds to seek.
  const seek = (value) => {
    const along = frames > 1 ? (value + 0.5) / frames : value / 1000;
    for (const video of videos) if (video.duration) video.currentTime = along * video.duration;
    showAt(along);
  };

  const pause = () => {
    for (const video of videos) video.pause();
    play.textContent = "Play";
    show();
  };

  const tick = () => {
    if (leader.paused) return;
    for (const video of videos.slice(1)) {
      if (Math.abs(video.currentTime - leader.currentTime) > 0.03) video.currentTime = leader.currentTime;
    }
    drawDifference();
    show();
    requestAnimationFrame(tick);
  };

  const start = async () => {
    for (const video of videos) {
      video.playbackRate = Number(rate.value);
      video.currentTime = leader.ended ? 0 : leader.currentTime;
    }
    play.textContent = "Pause";
    try {
      await Promise.all(videos.map((video) => video.play()));
      requestAnimationFrame(tick);
    } catch {
      pause();
    }
  };

  leader.addEventListener("ended", () => {
    for (const video of videos) video.currentTime = 0;
    start();
  });
  play.addEventListener("click", () => (leader.paused ? start() : pause()));
  scrub.addEventListener("input", () => {
    const wanted = Number(scrub.value);
    pause();
    seek(wanted);
  });
  rate.addEventListener("change", () => {
    for (const video of videos) video.playbackRate = Number(rate.value);
  });
  leader.addEventListener("seeked", show);
  leader.addEventListener("loadedmetadata", show);
  show();
})();
